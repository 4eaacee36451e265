"""`analytics_engine`: the engine that the environment asks for, chosen at its first call and not when it is imported."""

from __future__ import annotations

from analytics_dagster.engine.engine import Engine, Recordable, Submitted
from analytics_dagster.settings import Settings


class EnvironmentEngine(Engine):
    """A RemoteEngine where ANALYTICS_URL is set, else a LocalEngine on ANALYTICS_HOME; a closed one looks again."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen: Engine | None = None

    def _shut(self) -> None:
        chosen, self._chosen = self._chosen, None
        if chosen is not None:
            chosen.close()

    def _ready(self) -> bool:
        chosen = self._chosen
        return chosen is not None and chosen._ready()

    def _forget(self) -> object:
        chosen, self._chosen = self._chosen, None
        return chosen

    def _submit(self, data: Recordable, *, wait: bool) -> Submitted:
        return self._engine()._submit(data, wait=wait)

    def _engine(self) -> Engine:
        chosen = self._chosen
        if chosen is not None:
            return chosen
        with self._lock:
            if self._chosen is None:
                self._chosen = _engine_of(Settings.from_environment())
            return self._chosen


def _engine_of(settings: Settings) -> Engine:
    if settings.analytics_url is None:
        from analytics_dagster.engine.local import LocalEngine

        return LocalEngine(settings=settings)
    from analytics_dagster.engine.remote import RemoteEngine

    key = settings.analytics_key
    return RemoteEngine(
        settings.analytics_url, key.get_secret_value() if key is not None else None, buffer_size=settings.metrics_buffer_size
    )


analytics_engine = EnvironmentEngine()
