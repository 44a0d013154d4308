"""Task-specific features at one scale, with a prediction for deep supervision."""

from torch import Tensor, nn

from pipeline.networks.blocks import PredictionConv, ResidualBlock


class TaskFeatures(nn.Module):
    """Two residual blocks, then a 1x1 prediction that only the loss sees.

    (B, in, H, W) -> features (B, C, H, W), prediction (B, task channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, task_channels: int):
        super().__init__()
        self.blocks = nn.Sequential(ResidualBlock(in_channels, out_channels), ResidualBlock(out_channels, out_channels))
        self.predict = PredictionConv(out_channels, task_channels)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(x)
        return features, self.predict(features)
