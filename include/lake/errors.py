"""What can go wrong, by what cures it: the class of an error decides whether a retry can help."""

# What has to change before trying again makes sense: rows, an edit, nothing (the other writers are done by then), or
# nothing of ours (Spark, the network, the disk).
DATA, CODE, CONFLICT, INFRASTRUCTURE = "data", "code", "conflict", "infrastructure"


class LakeError(Exception):
    """One line that names the thing and the cure; shown to people without a traceback."""

    kind = INFRASTRUCTURE


class UsageError(LakeError):
    """What was asked for makes no sense: a wrong date, an unknown table. The command line exits with 2."""

    kind = CODE


class ContractError(LakeError):
    """A contract or a SELECT is wrong. A retry gives the same; an edit cures it."""

    kind = CODE


class InputsMissing(LakeError):
    """A day of an input is not there yet. Waiting, loading or building it cures it."""

    kind = DATA


class CheckFailed(LakeError):
    """The rows broke a promise of the contract. Nothing was published; better data or another SELECT cures it.

    `broken`: check -> rows or days that broke it.
    """

    kind = DATA

    def __init__(self, message: str, broken: dict[str, int]) -> None:
        super().__init__(message)
        self.broken = broken


class WriteConflict(LakeError):
    """Other writers kept replacing the same days. A later retry cures it."""

    kind = CONFLICT
