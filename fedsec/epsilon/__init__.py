"""Epsilon, claimed and measured: the exact Gaussian mechanism, and lower bounds from audits."""

from fedsec.epsilon.gaussian import gaussian_delta, gaussian_epsilon, gaussian_sigma
from fedsec.epsilon.guesses import LowerBound, audit_epsilon
from fedsec.epsilon.one_run import one_run_ceiling, one_run_epsilon, one_run_p_value
from fedsec.epsilon.rates import canary_epsilon_estimate, gaussian_rates_epsilon, known_null_epsilon, rates_epsilon
from fedsec.epsilon.tradeoff import f_dp_one_run_epsilon, f_dp_one_run_gaussian_epsilon, f_dp_one_run_mu

__all__ = [
    "LowerBound",
    "audit_epsilon",
    "canary_epsilon_estimate",
    "f_dp_one_run_epsilon",
    "f_dp_one_run_gaussian_epsilon",
    "f_dp_one_run_mu",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_rates_epsilon",
    "gaussian_sigma",
    "known_null_epsilon",
    "one_run_ceiling",
    "one_run_epsilon",
    "one_run_p_value",
    "rates_epsilon",
]
