"""Backbones with fewer blocks, for tests that train a whole system and not its nets."""

from segjax.models.backbones import efficientnet, resnet, xception


def use(monkeypatch) -> None:
    """Leaves EfficientNet two stages, ResNet-18 a block a stage, Xception-41 one middle block."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:2])
    monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
    monkeypatch.setitem(xception.MIDDLE_BLOCKS, 41, 1)
