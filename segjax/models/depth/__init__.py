"""Nets for self-supervised training of depth: from an image to depth, and from images to motion.

A depth net is called as `net(x, train)` with x [B, H, W, 3] in [0, 1], which it normalises itself.
It returns {'disparity': [d_0, .., d_3]}. d_s [B, h, w] float32 is positive and grows as things come
nearer. It has ceil(H / 2^s) rows and ceil(W / 2^s) columns, so d_0 has full resolution.
`net.depth_of(d)` is the depth of an array of disparities. It needs no parameters, and its unit is
arbitrary after training on the video of a single camera.

The contract of pose nets is in pose.py.
"""
