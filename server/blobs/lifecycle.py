"""Whether an S3 bucket removes the parts of uploads that were cut off, which otherwise stay, unseen, and cost money.

obstore does not ask for that, so the one request is made and signed here: AWS Signature Version 4, as described in
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
import urllib.request
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from urllib.error import HTTPError
from urllib.parse import urlsplit

from server.config import provider_variable

_TIMEOUT_S = 10
REMEDY = (
    "parts of uploads that were cut off stay in the bucket: give it a lifecycle rule with "
    "AbortIncompleteMultipartUpload after 1 day"
)


def lifecycle_fact(url: str, endpoint: str | None) -> str:
    """What there is to say of the lifecycle rules of the bucket that `s3://bucket/prefix` names."""
    key, secret = provider_variable("AWS_ACCESS_KEY_ID"), provider_variable("AWS_SECRET_ACCESS_KEY")
    if key is None or secret is None:
        return f"not checked, which needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {REMEDY}"
    region = provider_variable("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    address = f"{endpoint or f'https://s3.{region}.amazonaws.com'}/{bucket}"
    request = signed(address, key, secret, region)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            rules = ElementTree.fromstring(answer.read())
    except HTTPError as error:
        if error.code == 404:
            return f"PROBLEM: {REMEDY}"
        return f"not checked: the bucket answered {error.code}; {REMEDY}"
    except (OSError, ElementTree.ParseError) as error:
        return f"not checked: {error}; {REMEDY}"
    found = any(_aborts(rule, prefix) for rule in rules.iterfind("{*}Rule"))
    return "removes parts of uploads that were cut off" if found else f"PROBLEM: {REMEDY}"


def _aborts(rule: ElementTree.Element, prefix: str) -> bool:
    """Whether the rule is in force, and for all that is below the prefix."""
    of = rule.find("{*}Filter/{*}Prefix")
    of = rule.find("{*}Prefix") if of is None else of
    enabled = rule.findtext("{*}Status") == "Enabled" and prefix.startswith((of.text if of is not None else None) or "")
    return enabled and rule.find("{*}AbortIncompleteMultipartUpload") is not None


def signed(
    address: str, key: str, secret: str, region: str, method: str = "GET", body: bytes = b""
) -> urllib.request.Request:
    """A request that gets, or puts, the lifecycle rules of the bucket at this address."""
    place, query, content = urlsplit(address), "lifecycle=", hashlib.sha256(body).hexdigest()
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": place.netloc, "x-amz-content-sha256": content, "x-amz-date": now}
    token = provider_variable("AWS_SESSION_TOKEN")
    headers |= {"x-amz-security-token": token} if token else {}
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    canonical = "\n".join([method, place.path, query, *lines, "", names, content])
    scope = [now[:8], region, "s3", "aws4_request"]
    text = "\n".join(["AWS4-HMAC-SHA256", now, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    signing = f"AWS4{secret}".encode()
    for part in scope:
        signing = hmac.digest(signing, part.encode(), "sha256")
    signature = hmac.digest(signing, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{'/'.join(scope)}, SignedHeaders={names}, Signature={signature}"
    )
    return urllib.request.Request(f"{address}?{query}", body or None, headers, method=method)
