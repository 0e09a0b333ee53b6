"""Nets that remove noise from a map with any number of channels, such as the logits of a label map.

A denoiser is called as `net(maps, train)` with maps [B, H, W, k]. It returns {'logits': [B, H, W,
k] float32}. The number of channels k is read off the input. The nets were published for images (k =
3 or 1). He et al. (Reducing Noise Pixels and Metric Bias in Semantic Inpainting on Segmentation
Map) compare their Denoise Activation with them. They set the input and output channels to the
number of classes.
"""
