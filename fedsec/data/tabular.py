"""Tabular datasets with sensitive attributes, read from files.

A model sees every column listed in a source's ``columns``: the sensitive ones too, as in the literature on attribute
and property inference. The attributes of the examples stand beside the inputs and are never inputs by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedsec.data.cache import damaged, file_of
from fedsec.data.examples import Attribute, DatasetInfo
from fedsec.data.table_source import AGE_BAND, Part, TabularSource, age_band, split_part
from fedsec.data.tables import Column, codes, encode, input_names, numbers, read_table

_COUNTRIES = (
    "United-States", "Cambodia", "England", "Puerto-Rico", "Canada", "Germany", "Outlying-US(Guam-USVI-etc)", "India",
    "Japan", "Greece", "South", "China", "Cuba", "Iran", "Honduras", "Philippines", "Italy", "Poland", "Jamaica",
    "Vietnam", "Mexico", "Portugal", "Ireland", "France", "Dominican-Republic", "Laos", "Ecuador", "Taiwan", "Haiti",
    "Columbia", "Hungary", "Guatemala", "Nicaragua", "Scotland", "Thailand", "Yugoslavia", "El-Salvador",
    "Trinadad&Tobago", "Peru", "Hong", "Holand-Netherlands", "?",
)  # fmt: skip
_RACES = ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other")


@dataclass(frozen=True, kw_only=True)
class Adult(TabularSource):
    """Census income of 1994: does a person earn more than 50,000 dollars a year; official test part.

    The model sees all columns but ``fnlwgt`` (a sampling weight) and ``education`` (``education-num`` in words).
    Unknown cells are a category of their own, so no row is dropped.
    """

    name: ClassVar[str] = "adult"
    summary: ClassVar[str] = "Census income (Adult), 32,561 train and 16,281 test rows, with sex, race and age band"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("age", attribute="age-band"),
        Column(
            "workclass",
            ("Private", "Self-emp-not-inc", "Self-emp-inc", "Federal-gov", "Local-gov", "State-gov", "Without-pay",
             "Never-worked", "?"),
        ),
        Column("education-num"),
        Column(
            "marital-status",
            ("Married-civ-spouse", "Divorced", "Never-married", "Separated", "Widowed", "Married-spouse-absent",
             "Married-AF-spouse"),
        ),
        Column(
            "occupation",
            ("Tech-support", "Craft-repair", "Other-service", "Sales", "Exec-managerial", "Prof-specialty",
             "Handlers-cleaners", "Machine-op-inspct", "Adm-clerical", "Farming-fishing", "Transport-moving",
             "Priv-house-serv", "Protective-serv", "Armed-Forces", "?"),
        ),
        Column("relationship", ("Wife", "Own-child", "Husband", "Not-in-family", "Other-relative", "Unmarried")),
        Column("race", _RACES, "race"),
        Column("sex", ("Female", "Male"), "sex"),
        Column("capital-gain"),
        Column("capital-loss"),
        Column("hours-per-week"),
        Column("native-country", _COUNTRIES),
    )  # fmt: skip
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="adult",
        summary=summary,
        task="classification",
        input_shape=(len(input_names(columns)),),
        classes=("<=50K", ">50K"),
        bounds=(0.0, 1.0),
        modality="tabular",
        attributes=(
            Attribute(name="sex", values=("Female", "Male"), description="sex as recorded"),
            Attribute(name="race", values=_RACES, description="race as recorded"),
            AGE_BAND,
        ),
        public=True,
        source="B. Becker, R. Kohavi, Adult, UCI 1996, doi:10.24432/C5XW20",
        licence="CC BY 4.0",
    )

    def _parts(self, root: Path | None) -> tuple[Part, Part]:
        train, test = (self._read(file_of(self.name, file, root)) for file in ("adult.data", "adult.test"))
        return train, test

    def _read(self, path: Path) -> Part:
        names = (
            "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship",
            "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
        )  # fmt: skip
        read = dict(read_table(path, dataset=self.name, columns=names, separator=",", header=False, comment="|"))
        read["income"] = np.char.rstrip(read["income"], ".")
        return Part(
            encode(read, self.columns, dataset=self.name, path=path),
            codes(read, "income", self.info.classes, dataset=self.name, path=path),
            {
                "sex": codes(read, "sex", ("Female", "Male"), dataset=self.name, path=path),
                "race": codes(read, "race", _RACES, dataset=self.name, path=path),
                "age-band": age_band(numbers(read, "age", dataset=self.name, path=path)),
            },
        )


_MONTHS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")


@dataclass(frozen=True, kw_only=True)
class CreditDefault(TabularSource):
    """Default of 30,000 credit card clients in Taiwan; 6,000 of them are the test examples.

    The model sees all columns but ``ID``. The repayment status is a number (months of delay; -2 no use, -1 paid in
    full, 0 revolving). The natural vertical split is: profile (LIMIT_BAL to AGE), status (PAY_0 to PAY_6), bills
    (BILL_AMT), payments (PAY_AMT).
    """

    name: ClassVar[str] = "credit-default"
    summary: ClassVar[str] = "Default of credit card clients, 24,000 train and 6,000 test rows, with sex and age band"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("LIMIT_BAL"),
        Column("SEX", ("1", "2"), "sex"),
        Column("EDUCATION", ("0", "1", "2", "3", "4", "5", "6")),
        Column("MARRIAGE", ("0", "1", "2", "3"), "marriage"),
        Column("AGE", attribute="age-band"),
        *(Column(month) for month in _MONTHS),
        *(Column(f"BILL_AMT{month}") for month in range(1, 7)),
        *(Column(f"PAY_AMT{month}") for month in range(1, 7)),
    )
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="credit-default",
        summary=summary,
        task="classification",
        input_shape=(len(input_names(columns)),),
        classes=("no default", "default"),
        bounds=(0.0, 1.0),
        modality="tabular",
        attributes=(
            Attribute(name="sex", values=("male", "female"), description="sex as recorded"),
            Attribute(
                name="marriage",
                values=("undocumented", "married", "single", "other"),
                description="marital status as recorded",
            ),
            AGE_BAND,
        ),
        public=True,
        source="I-C. Yeh, C-H. Lien, The comparisons of data mining techniques for the predictive accuracy of "
        "probability of default of credit card clients, 2009; UCI doi:10.24432/C55S3H",
        licence="CC BY 4.0",
    )

    def _parts(self, root: Path | None) -> tuple[Part, Part]:
        path = file_of(self.name, "UCI_Credit_Card.csv", root)
        names = ("ID", *(column.name for column in self.columns), "Default")
        read = read_table(path, dataset=self.name, columns=names, separator=",", header=True)
        part = Part(
            encode(read, self.columns, dataset=self.name, path=path),
            codes(read, "Default", ("0", "1"), dataset=self.name, path=path),
            {
                "sex": codes(read, "SEX", ("1", "2"), dataset=self.name, path=path),
                "marriage": codes(read, "MARRIAGE", ("0", "1", "2", "3"), dataset=self.name, path=path),
                "age-band": age_band(numbers(read, "AGE", dataset=self.name, path=path)),
            },
        )
        if len(part.y) < 6001:
            raise damaged(self.name, path, f"it has {len(part.y)} rows, expected 30,000")
        return split_part(part, 6000, purpose=self.name)


_MARITAL = ("divorced", "married", "single", "unknown")
_YES_NO = ("no", "yes", "unknown")


@dataclass(frozen=True, kw_only=True)
class BankMarketing(TabularSource):
    """Does a client of a Portuguese bank subscribe to a deposit; the publishers' 10 % sample, 800 rows for testing.

    The model sees all columns but ``duration``, which is known only after the call and gives the answer away.
    ``pdays`` is 999 where the client was not contacted before. The natural vertical split is: client (age to loan),
    campaign (contact to poutcome), economy (emp.var.rate to nr.employed).
    """

    name: ClassVar[str] = "bank-marketing"
    summary: ClassVar[str] = (
        "Bank marketing, 10 % sample, 3,319 train and 800 test rows, with age band and marital status"
    )
    columns: ClassVar[tuple[Column, ...]] = (
        Column("age", attribute="age-band"),
        Column(
            "job",
            ("admin.", "blue-collar", "entrepreneur", "housemaid", "management", "retired", "self-employed", "services",
             "student", "technician", "unemployed", "unknown"),
        ),
        Column("marital", _MARITAL, "marital"),
        Column(
            "education",
            ("basic.4y", "basic.6y", "basic.9y", "high.school", "illiterate", "professional.course",
             "university.degree", "unknown"),
        ),
        Column("default", _YES_NO),
        Column("housing", _YES_NO),
        Column("loan", _YES_NO),
        Column("contact", ("cellular", "telephone")),
        Column("month", ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
        Column("day_of_week", ("mon", "tue", "wed", "thu", "fri")),
        Column("campaign"),
        Column("pdays"),
        Column("previous"),
        Column("poutcome", ("failure", "nonexistent", "success")),
        Column("emp.var.rate"),
        Column("cons.price.idx"),
        Column("cons.conf.idx"),
        Column("euribor3m"),
        Column("nr.employed"),
    )  # fmt: skip
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="bank-marketing",
        summary=summary,
        task="classification",
        input_shape=(len(input_names(columns)),),
        classes=("no", "yes"),
        bounds=(0.0, 1.0),
        modality="tabular",
        attributes=(
            AGE_BAND,
            Attribute(name="marital", values=_MARITAL, description="marital status; divorced includes widowed"),
        ),
        public=True,
        source="S. Moro, P. Cortez, P. Rita, A Data-Driven Approach to Predict the Success of Bank Telemarketing, "
        "2014; UCI doi:10.24432/C5K306 (10 % sample)",
        licence="CC BY 4.0",
    )

    def _parts(self, root: Path | None) -> tuple[Part, Part]:
        path = file_of(self.name, "bank-additional.csv", root)
        seen = [column.name for column in self.columns]
        after = seen.index("campaign")
        names = (*seen[:after], "duration", *seen[after:], "y")
        read = read_table(path, dataset=self.name, columns=names, separator=";", header=True)
        part = Part(
            encode(read, self.columns, dataset=self.name, path=path),
            codes(read, "y", self.info.classes, dataset=self.name, path=path),
            {
                "age-band": age_band(numbers(read, "age", dataset=self.name, path=path)),
                "marital": codes(read, "marital", _MARITAL, dataset=self.name, path=path),
            },
        )
        if len(part.y) < 801:
            raise damaged(self.name, path, f"it has {len(part.y)} rows, expected 4,119")
        return split_part(part, 800, purpose=self.name)


def _coded(attribute: int, *numbers_: int) -> tuple[str, ...]:
    return tuple(f"A{attribute}{number}" for number in numbers_)


_STATUS = _coded(9, 1, 2, 3, 4, 5)
_FEMALE = np.asarray([0, 1, 0, 0, 1], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class GermanCredit(TabularSource):
    """1,000 loan applicants, good or bad risk; 200 of them are the test examples.

    The model sees all 20 columns. Sex is read from the column of personal status and sex, in which U. Groemping
    (South German Credit Data, 2019) reports coding errors: results on it are checks of a method only.
    """

    name: ClassVar[str] = "german-credit"
    summary: ClassVar[str] = "German credit, 800 train and 200 test rows, with sex, age band and foreign worker"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("checking account", _coded(1, 1, 2, 3, 4)),
        Column("duration"),
        Column("credit history", _coded(3, 0, 1, 2, 3, 4)),
        Column("purpose", _coded(4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)),
        Column("amount"),
        Column("savings", _coded(6, 1, 2, 3, 4, 5)),
        Column("employment since", _coded(7, 1, 2, 3, 4, 5)),
        Column("installment rate"),
        Column("personal status and sex", _STATUS, "sex"),
        Column("other debtors", _coded(10, 1, 2, 3)),
        Column("residence since"),
        Column("property", _coded(12, 1, 2, 3, 4)),
        Column("age", attribute="age-band"),
        Column("other plans", _coded(14, 1, 2, 3)),
        Column("housing", _coded(15, 1, 2, 3)),
        Column("credits"),
        Column("job", _coded(17, 1, 2, 3, 4)),
        Column("liable people"),
        Column("telephone", _coded(19, 1, 2)),
        Column("foreign worker", _coded(20, 1, 2), "foreign-worker"),
    )
    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="german-credit",
        summary=summary,
        task="classification",
        input_shape=(len(input_names(columns)),),
        classes=("good", "bad"),
        bounds=(0.0, 1.0),
        modality="tabular",
        attributes=(
            Attribute(
                name="sex",
                values=("male", "female"),
                description="derived from personal status and sex, a column with known coding errors",
            ),
            AGE_BAND,
            Attribute(name="foreign-worker", values=("no", "yes"), description="foreign worker as recorded"),
        ),
        public=True,
        source="H. Hofmann, Statlog (German Credit Data), UCI 1994, doi:10.24432/C5NC77",
        licence="CC BY 4.0",
    )

    def _parts(self, root: Path | None) -> tuple[Part, Part]:
        path = file_of(self.name, "german.data", root)
        names = (*(column.name for column in self.columns), "risk")
        read = read_table(path, dataset=self.name, columns=names, separator=" ", header=False)
        status = codes(read, "personal status and sex", _STATUS, dataset=self.name, path=path)
        part = Part(
            encode(read, self.columns, dataset=self.name, path=path),
            codes(read, "risk", ("1", "2"), dataset=self.name, path=path),
            {
                "sex": _FEMALE[status],
                "age-band": age_band(numbers(read, "age", dataset=self.name, path=path)),
                "foreign-worker": codes(read, "foreign worker", ("A202", "A201"), dataset=self.name, path=path),
            },
        )
        if len(part.y) < 201:
            raise damaged(self.name, path, f"it has {len(part.y)} rows, expected 1,000")
        return split_part(part, 200, purpose=self.name)
