"""Balancing methods by their names in params.yaml; `names.BALANCING` says what each option takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torchjd import aggregation, scalarization

from pipeline.balancing import by_losses
from pipeline.balancing.base import Balancing
from pipeline.balancing.by_gradients import GramianBalancing, Method, SignDropout
from pipeline.balancing.gradnorm import GradNorm

# Of Nash-MTL's problem, which cvxpy reads anew at each step; it has as many variables as there are tasks.
warnings.filterwarnings("ignore", "You are solving a parameterized problem that is not DPP")


@dataclass(frozen=True)
class Setting:
    """What methods are made from, beside their options."""

    tasks: tuple[str, ...]
    weights: dict[str, float]
    network: nn.Module
    device: torch.device
    seed: int

    def by_losses(self, kind: type[by_losses.LossBalancing], scalarizer: scalarization.Scalarizer) -> Balancing:
        """A method that looks at losses."""
        return kind(self.tasks, self.weights, self.device, scalarizer)

    def by_products(self, method: Method, batches: int = 1) -> Balancing:
        """A method that looks at products of gradients."""
        return GramianBalancing(self.tasks, self.weights, self.network, method, self.seed, batches)


def _uw(setting: Setting) -> Balancing:
    return setting.by_losses(by_losses.Learnt, scalarization.UW(len(setting.tasks)))


def _imtl_l(setting: Setting) -> Balancing:
    return setting.by_losses(by_losses.Learnt, scalarization.IMTLL(len(setting.tasks)))


def _dwa(setting: Setting, temperature: float = 2.0) -> Balancing:
    return setting.by_losses(by_losses.DynamicWeightAverage, scalarization.DWA(temperature))


def _rlw(setting: Setting) -> Balancing:
    return by_losses.RandomWeights(setting.tasks, setting.weights, setting.device, setting.seed)


def _gls(setting: Setting) -> Balancing:
    """The geometric mean of the losses (Chennupati et al., CVPR workshops 2019)."""
    return setting.by_losses(by_losses.LossBalancing, scalarization.GeometricMean())


def _famo(setting: Setting, lr: float = 0.025, weight_decay: float = 1e-3) -> Balancing:
    scalarizer = scalarization.FAMO(len(setting.tasks), lr=lr, weight_decay=weight_decay)
    return setting.by_losses(by_losses.FAMO, scalarizer)


def _stch(setting: Setting, mu: float = 1.0) -> Balancing:
    """A smooth maximum of the losses: mu log sum exp(loss / (T mu)) (Lin et al., ICML 2024)."""
    return setting.by_losses(by_losses.LossBalancing, scalarization.STCH(mu))


def _gradnorm(setting: Setting, alpha: float = 1.5, lr: float = 0.025) -> Balancing:
    return GradNorm(setting.tasks, setting.weights, setting.network, alpha, lr)


def _graddrop(setting: Setting, leak: float = 0.0) -> Balancing:
    return SignDropout(setting.tasks, setting.weights, setting.network, setting.seed, leak)


def _by_products(weighting: Callable[[], nn.Module]) -> Callable[[Setting], Balancing]:
    """A method without options."""
    return lambda setting: setting.by_products(Method(weighting(), degree=0))


def _gradvac(setting: Setting, beta: float = 0.5) -> Balancing:
    """PCGrad's, towards a moving average of the cosines (Wang, Tsvetkov, Firat, Cao, ICLR 2021)."""
    return setting.by_products(Method(aggregation.GradVacWeighting(beta), ("_phi_t",), degree=0))


def _cagrad(setting: Setting, c: float = 0.5) -> Balancing:
    """The worst task's best step within c times the mean gradient's length of it (Liu et al., NeurIPS 2021)."""
    return setting.by_products(Method(aggregation.CAGradWeighting(c), degree=0))


def _nash_mtl(setting: Setting, max_norm: float = 1.0) -> Balancing:
    """The Nash bargaining solution, G w = 1 / w, cut to a step of norm max_norm (Navon et al., ICML 2022)."""
    weighting = aggregation.NashMTL(len(setting.tasks), max_norm).weighting
    return setting.by_products(Method(weighting, ("prvs_alpha",), of_factor=True))


def _fairgrad(setting: Setting, alpha: float = 1.0) -> Balancing:
    """G w = w^(-1 / alpha) (Ban, Ji, ICML 2024)."""
    return setting.by_products(Method(aggregation.FairGradWeighting(alpha), degree=-alpha / (1 + alpha)))


def _sdmgrad(setting: Setting, preference: float = 0.3) -> Balancing:
    """Least product of two batches' steps, drawn to the mean gradient (Xiao, Ban, Ji, NeurIPS 2023)."""
    return setting.by_products(Method(aggregation.SDMGradWeighting(lambda_=preference), ("_w",)), batches=2)


def _modo(setting: Setting, gamma: float = 0.1, rho: float = 0.1) -> Balancing:
    """One step of weights a step of the network, from two batches (Chen et al., JMLR 2024)."""
    return setting.by_products(Method(aggregation.MoDoWeighting(gamma, rho), ("_lambda",)), batches=2)


METHODS: dict[str, Callable[..., Balancing]] = {
    "uw": _uw,
    "dwa": _dwa,
    "rlw": _rlw,
    "gls": _gls,
    "imtl_l": _imtl_l,
    "famo": _famo,
    "stch": _stch,
    "gradnorm": _gradnorm,
    "mgda": _by_products(aggregation.MGDAWeighting),
    "pcgrad": _by_products(aggregation.PCGradWeighting),
    "gradvac": _gradvac,
    "graddrop": _graddrop,
    "cagrad": _cagrad,
    "imtl_g": _by_products(aggregation.IMTLGWeighting),
    "nash_mtl": _nash_mtl,
    "aligned_mtl": _by_products(aggregation.AlignedMTLWeighting),
    "fairgrad": _fairgrad,
    "sdmgrad": _sdmgrad,
    "modo": _modo,
    "upgrad": _by_products(aggregation.UPGradWeighting),
}
