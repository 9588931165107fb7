"""Keys that contradict each other. Runs on: laptop. Owns rules over more than one key; values alone are `spec`'s."""

from __future__ import annotations

from modalbatch.job import Job
from modalbatch.spec.problem import Problems


def check_job(problems: Problems, job: Job) -> None:
    """Report contradictions of a job whose single values are all right."""
    _check_compute(problems, job)
    _check_policy(problems, job)
    _check_image(problems, job)


def _check_compute(problems: Problems, job: Job) -> None:
    compute = job.compute
    if compute.min_containers > compute.max_containers:
        message = f"`min_containers` is above `max_containers`, which is {compute.max_containers}"
        problems.add(("min_containers",), message, "lower it, or raise `max_containers`")
    if compute.gpu and compute.modal.get("nonpreemptible"):
        message = "Modal has no `nonpreemptible` containers with a GPU"
        problems.add(("modal", "nonpreemptible"), message, "remove it", at_key=True)


def _check_policy(problems: Problems, job: Job) -> None:
    limit = job.handler.timeout_s
    if limit is not None and limit > job.compute.timeout_s:
        message = f"`handler.timeout` is above `timeout`, which is {job.compute.timeout_s} s"
        problems.add(("handler", "timeout"), message, "one call is part of one attempt: lower it, or raise `timeout`")
    if job.retries.initial_delay_s > job.retries.max_delay_s:
        message = f"`retries.initial_delay` is above `max_delay`, which is {job.retries.max_delay_s:g} s"
        problems.add(("retries", "initial_delay"), message, "lower it, or raise `max_delay`")
    if job.on_error.record == "fail" and {job.on_error.max_failed, job.on_error.max_failed_share} != {None}:
        message = "`max_failed` has no meaning with `record: fail`, which stops at the first"
        problems.add(("on_error", "max_failed"), message, "remove one of them", at_key=True)


def _check_image(problems: Problems, job: Job) -> None:
    image = problems.spec.tree.get("image", {})
    if isinstance(job.image.base, dict) and "python" in image:
        message = "`python` applies to `debian_slim`; this image brings its own"
        problems.add(("image", "python"), message, "use `add_python` in `image.base`", at_key=True)
    for name in sorted(set(job.image.env) & set(job.env)):
        message = f"`{name}` is set in `env` and in `image.env`"
        problems.add(("image", "env", name), message, "keep one of them", at_key=True)
