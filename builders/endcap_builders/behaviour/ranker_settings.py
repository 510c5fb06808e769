"""Settings of the ranker. Reading them imports nothing that trains, so that a build starts fast."""

from pydantic import Field

from endcap_builders.step import Settings


class RankerSettings(Settings):
    """Options of the traditional ranker."""

    cuts: int = Field(16, ge=1, le=100, description="days in the past after which purchases are predicted, at most")
    train_shoppers: int = Field(3000, ge=1, description="most shoppers to train on, over all these days")
    judge_shoppers: int = Field(1500, ge=1, description="most shoppers to judge on")
    kept: float = Field(0.25, gt=0, le=1, description="share of the candidates not bought that are trained on")
    trees: int = Field(120, ge=1, le=1000, description="trees; serving time grows with them")
    leaves: int = Field(15, ge=2, le=255, description="leaves of a tree")
    learning_rate: float = Field(0.05, gt=0, le=1, description="share of each tree's correction that is taken")
    exposures: str = Field(
        "", description="folder of the record of what pages showed, to train on what was shown, too; empty: none"
    )
    exposures_secret: str = Field("", description="file of the deployment's secret; empty: beside the exposures")
    exposure_pages: int = Field(50_000, ge=1, description="most pages of the exposures, the latest")
    captions: bool = Field(True, description="whether caption tokens are features of the served model (P3)")
