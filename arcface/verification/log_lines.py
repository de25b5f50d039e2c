"""The log lines of a verification, of which `log_verification` has exactly the 2021 toolkit's, which scripts parse."""

from arcface.io.log import logger
from arcface.verification.evaluator import Verification
from arcface.verification.identification import Identification
from arcface.verification.roc import OperatingPoint


def log_verification(name: str, step: int, result: Verification, highest: float) -> None:
    """Write the three lines of a verification."""
    logger.info("[%s][%d]XNorm: %f", name, step, result.xnorm)
    logger.info("[%s][%d]Accuracy-Flip: %1.5f+-%1.5f", name, step, result.accuracy.mean, result.accuracy.std)
    logger.info("[%s][%d]Accuracy-Highest: %1.5f", name, step, highest)


def log_tar_at_far(name: str, step: int, points: list[OperatingPoint]) -> None:
    """Write a line for each FAR of a template-based verification."""
    for point in points:
        if point.tar is None:
            logger.info("[%s][%d]TAR@FAR=%.0e: not enough negatives", name, step, point.far)
        else:
            logger.info("[%s][%d]TAR@FAR=%.0e: %1.5f (similarity >= %.4f)", name, step, point.far, point.tar, point.threshold)


def log_identification(name: str, step: int, result: Identification) -> None:
    """Write a line for each rank and each FPIR of an identification."""
    for rank, rate in result.rates.items():
        logger.info("[%s][%d]Rank-%d: %1.5f", name, step, rank, rate)
    for far, tpir, thresholds in result.summary():
        if tpir is None:
            logger.info("[%s][%d]TPIR@FPIR=%.0e: not enough probes without a mate", name, step, far)
        else:
            logger.info("[%s][%d]TPIR@FPIR=%.0e: %1.5f (similarity >= %s)", name, step, far, tpir, thresholds)
