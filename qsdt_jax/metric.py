"""What a number of an evaluation is called, in what unit it stands, and whether more of it is better."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of a split.

    Attributes:
      name: its key in files, e.g. "top1".
      title: its name for people, e.g. "top-1".
      unit: e.g. "%"; empty for a number without one.
      larger_is_better: otherwise smaller is.
    """

    name: str
    title: str
    unit: str = ""
    larger_is_better: bool = True

    @property
    def logged(self) -> str:
        """Its name in metrics.jsonl, summary.json and checkpoints, of the split that decides."""
        return f"eval/{self.name}"

    @property
    def label(self) -> str:
        """Title and unit, for axes and columns: "top-1 (%)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def described(self) -> str:
        """All that tells it from another one: "top-1 (%), larger is better"."""
        return f"{self.label}, {'larger' if self.larger_is_better else 'smaller'} is better"

    @property
    def form(self) -> str:
        """How a value is written, as a format specification."""
        return ".2f" if self.unit == "%" else ".4g"

    def text(self, value: float) -> str:
        """A value with its unit: "98.61 %"."""
        return f"{value:{self.form}} {self.unit}".rstrip()
