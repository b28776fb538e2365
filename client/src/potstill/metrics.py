"""Metric series of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.documents import MetricsDocument, Series
from potstill.errors import InvalidArgument, PackageMissing

if TYPE_CHECKING:
    import pandas as pd


class Metrics(MetricsDocument):
    """Metric series by name, e.g. ``metrics["train/loss"].points``: pairs of step and value."""

    @property
    def names(self) -> list[str]:
        """Names of the series."""
        return [each.name for each in self.series]

    def __getitem__(self, name: str) -> Series:
        """Return one series. Raises :class:`InvalidArgument`."""
        for each in self.series:
            if each.name == name:
                return each
        raise InvalidArgument(f"there is no series {name!r}; there are {', '.join(self.names) or 'none'}")

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for each step, and one column for each series, named like it.

        The index is ``step``. A series without a value at a step has NaN there. Raises :class:`PackageMissing`.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise PackageMissing("pandas is not installed; run: pip install 'potstill[pandas]'") from error
        columns = {each.name: pd.Series(dict(each.points), dtype="float64") for each in self.series}
        return pd.DataFrame(columns, columns=self.names).rename_axis(index="step").sort_index()
