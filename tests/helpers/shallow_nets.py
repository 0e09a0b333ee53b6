"""Backbones with fewer blocks, for tests that train a whole system and not its nets."""

from segjax.models.backbones import efficientnet, resnet


def use(monkeypatch) -> None:
    """Leaves EfficientNet two of its stages, and ResNet-18 the first block of each stage."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:2])
    monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
