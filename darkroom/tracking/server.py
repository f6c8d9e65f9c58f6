"""Requests to an MLflow server before it is used as a store: whether it responds, and the name of an experiment."""

import os

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from darkroom.pipeline.stage import StageError
from darkroom.tracking.address import hide_login
from darkroom.tracking.failures import TRACKING_ERRORS, UntrustedCertificate, explain_failure

RESPONSE_SECONDS = 10
SERVERS = ("http://", "https://")
ABSENT = "RESOURCE_DOES_NOT_EXIST"


def limit_timeouts() -> None:
    """Shorten MLflow's timeout of two minutes, and its seven retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


def check_server(address: str) -> None:
    """Send the server a request with MLflow's credentials, certificates and proxies, but without its retries.

    Raises:
        ConnectionError: the server does not respond.
        MlflowException: the address or the credentials are invalid.
    """
    try:
        credentials = get_default_host_creds(address)  # type: ignore[no-untyped-call]
        http_request(credentials, "", "HEAD", 0, timeout=RESPONSE_SECONDS, raise_on_status=False)  # type: ignore[no-untyped-call]
    except MlflowException as error:
        match error.__context__:
            case requests.Timeout():
                raise ConnectionError(f"no response within {RESPONSE_SECONDS} seconds") from None
            case requests.exceptions.SSLError() as ssl_error if "CERTIFICATE_VERIFY_FAILED" in str(ssl_error):
                raise UntrustedCertificate("the server's certificate is not trusted") from None
            case requests.ConnectionError():
                raise ConnectionError("connection failed") from None
            case OSError() as cause:  # such as a certificate that does not exist
                raise cause from None
        raise


def fetch_name(address: str, experiment_id: str) -> str:
    """The name of an experiment of a store; "" if there is none with this id.

    Raises:
        StageError: the store fails.
    """
    limit_timeouts()
    try:
        if address.startswith(SERVERS):
            check_server(address)
        name: str = MlflowClient(address).get_experiment(experiment_id).name
    except TRACKING_ERRORS as error:
        if isinstance(error, MlflowException) and error.error_code == ABSENT:
            return ""
        reason, fix = explain_failure(error, [address])
        raise StageError(f"the MLflow store {hide_login(address)} cannot be used ({reason}); {fix}") from None
    return name
