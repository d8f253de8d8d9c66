"""Students: the networks that are trained on synsets.

This package's front is free of torch (names, groups, checks); networks are built by ``ddbench.networks.build``.
"""

from ddbench.networks.check import check_student
from ddbench.networks.names import GROUPS, STUDENTS, StudentName, default_student, expand_students, parse_student

__all__ = [
    "GROUPS",
    "STUDENTS",
    "StudentName",
    "check_student",
    "default_student",
    "expand_students",
    "parse_student",
]
