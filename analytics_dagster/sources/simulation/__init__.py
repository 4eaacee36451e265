"""The simulated service: a music-streaming service with listeners, releases, money, machines and labelled incidents.

`simulate` fills an installation, `simulate_through` goes on with one of its tenants, `simulate_day` makes one day's tables
from a population alone. Equal seeds give equal rows, a day at a time or a range at once.
"""

from __future__ import annotations

from analytics_dagster.sources.simulation.catalogue import catalogue, catalogue_changes
from analytics_dagster.sources.simulation.day import simulate_day
from analytics_dagster.sources.simulation.incidents import Incident, IncidentKind, plan_incidents
from analytics_dagster.sources.simulation.parameters import Parameters, load_parameters, simulated_tenants, tenant_name
from analytics_dagster.sources.simulation.population import Population, build_population
from analytics_dagster.sources.simulation.run import (
    SimulationPlan,
    SimulationReport,
    TenantReport,
    simulate,
    simulate_through,
)

__all__ = [
    "Incident",
    "IncidentKind",
    "Parameters",
    "Population",
    "SimulationPlan",
    "SimulationReport",
    "TenantReport",
    "build_population",
    "catalogue",
    "catalogue_changes",
    "load_parameters",
    "plan_incidents",
    "simulate",
    "simulate_day",
    "simulate_through",
    "simulated_tenants",
    "tenant_name",
]
