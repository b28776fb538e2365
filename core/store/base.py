"""What all tables have in common: types that every dialect has, and names of constraints."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

from core.store.columns import CleanText, UtcDateTime

Id = Annotated[str, mapped_column(String(40))]
Word = Annotated[str, mapped_column(String(40))]  # one of a few words of ours
OwnedBy = Annotated[str, mapped_column(String(40), ForeignKey("projects.id"))]
Json = JSON(none_as_null=True)


class Base(DeclarativeBase):
    """Constraint names are fixed, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: CleanText(),
        int: BigInteger(),
        float: Float(53),
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
    }
