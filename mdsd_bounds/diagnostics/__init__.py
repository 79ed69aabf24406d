"""What a dump says about the choice of a draft sampler: bounds on every sampler, equilibrium, draft temperature."""

from mdsd_bounds.diagnostics.draft_temperature import DraftTemperature, choose_draft_temperature
from mdsd_bounds.diagnostics.equilibrium import equilibrium, share_in_subset
from mdsd_bounds.diagnostics.fixed_set import best_fixed_set
from mdsd_bounds.diagnostics.quantile_bound import quantile_bound

__all__ = [
    "DraftTemperature",
    "best_fixed_set",
    "choose_draft_temperature",
    "equilibrium",
    "quantile_bound",
    "share_in_subset",
]
