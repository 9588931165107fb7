"""Modal's names as data: keywords of `app.cls`, methods of `Image`. Runs on: laptop.

Owns what may be written under `modal:` and `image.layers:`, so that a spec is checked without importing modal.
The tests compare every entry with the installed modal.
"""

from __future__ import annotations

#: Keywords of `app.cls` for `modal:`, with the JSON type of their value.
CLS_KEYWORDS: dict[str, str] = {
    "proxy": "string",
    "routing_region": "string",
    "nonpreemptible": "boolean",
    "enable_memory_snapshot": "boolean",
    "block_network": "boolean",
    "restrict_modal_access": "boolean",
    "single_use_containers": "boolean",
    "i6pn": "boolean",
    "experimental_options": "object",
}
#: Keywords of `app.cls` that have a key of their own, or that the generated app decides: → what to do instead.
CLS_REFUSED: dict[str, str] = {
    "image": "write it as the key `image`",
    "env": "write it as the key `env`",
    "secrets": "write it as the key `secrets`",
    "gpu": "write it as the key `gpu`",
    "volumes": "write it as the key `volumes`",
    "cpu": "write it as the key `cpu`",
    "memory": "write it as the key `memory`",
    "ephemeral_disk": "write it as the key `ephemeral_disk`",
    "min_containers": "write it as the key `min_containers`",
    "max_containers": "write it as the key `max_containers`",
    "buffer_containers": "write it as the key `buffer_containers`",
    "scaledown_window": "write it as the key `scaledown_window`",
    "retries": "write it as the key `retries`; the app sets Modal's own to 0",
    "timeout": "write it as the key `timeout`",
    "startup_timeout": "write it as the key `startup_timeout`",
    "cloud": "write it as the key `cloud`",
    "region": "write it as the key `region`",
    "serialized": "the app imports the handler from its file",
    "include_source": "name modules in `image.source`",
    "network_file_systems": "use `volumes`",
    "max_inputs": "use `single_use_containers`",
    "_experimental_restrict_output": "the app needs the worker's output",
}

#: Methods of `Image` for `image.layers`: (positional parameters, keyword parameters). `*name` takes any number.
IMAGE_METHODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "add_local_dir": (("local_path", "remote_path"), ("copy", "ignore")),
    "add_local_file": (("local_path", "remote_path"), ("copy",)),
    "add_local_python_source": (("*modules",), ("copy", "ignore")),
    "apt_install": (("*packages",), ("force_build", "env", "secrets", "gpu")),
    "cmd": (("cmd",), ()),
    "dockerfile_commands": (
        ("*dockerfile_commands",),
        ("context_files", "env", "secrets", "gpu", "context_dir", "force_build", "ignore", "build_args"),
    ),
    "entrypoint": (("entrypoint_commands",), ()),
    "env": (("vars",), ()),
    "micromamba_install": (("*packages",), ("spec_file", "channels", "force_build", "env", "secrets", "gpu")),
    "pip_install": (
        ("*packages",),
        (
            "find_links", "index_url", "extra_index_url", "pre", "extra_options", "force_build", "env", "secrets",
            "gpu",
        ),
    ),
    "pip_install_from_pyproject": (
        ("pyproject_toml", "optional_dependencies"),
        (
            "find_links", "index_url", "extra_index_url", "pre", "extra_options", "force_build", "env", "secrets",
            "gpu",
        ),
    ),
    "pip_install_from_requirements": (
        ("requirements_txt", "find_links"),
        ("index_url", "extra_index_url", "pre", "extra_options", "force_build", "env", "secrets", "gpu"),
    ),
    "pip_install_private_repos": (
        ("*repositories",),
        (
            "git_user", "find_links", "index_url", "extra_index_url", "pre", "extra_options", "gpu", "env", "secrets",
            "force_build",
        ),
    ),
    "poetry_install_from_file": (
        ("poetry_pyproject_toml", "poetry_lockfile"),
        (
            "ignore_lockfile", "force_build", "with_", "without", "only", "poetry_version", "old_installer", "env",
            "secrets", "gpu",
        ),
    ),
    "run_commands": (("*commands",), ("env", "secrets", "volumes", "gpu", "force_build")),
    "shell": (("shell_commands",), ()),
    "uv_pip_install": (
        ("*packages",),
        (
            "requirements", "find_links", "index_url", "extra_index_url", "pre", "extra_options", "force_build",
            "uv_version", "env", "secrets", "gpu",
        ),
    ),
    "uv_sync": (
        ("uv_project_dir",),
        (
            "force_build", "groups", "extras", "frozen", "extra_options", "uv_version", "env", "secrets", "gpu",
        ),
    ),
    "workdir": (("path",), ()),
}  # fmt: skip
#: Methods of `Image` that no layer can be: → what to do instead.
IMAGE_REFUSED: dict[str, str] = {
    "run_function": "use `image.pipe`",
    "pipe": "use `image.pipe`",
    "imports": "it is no layer",
    "build": "the app builds the image",
    "publish": "it is no layer",
    "hydrate": "it is no layer",
    "get_dashboard_url": "it is no layer",
    "debian_slim": "use `image.base`",
    "micromamba": "use `image.base`",
    "from_registry": "use `image.base`",
    "from_dockerfile": "use `image.base`",
    "from_aws_ecr": "use `image.base`",
    "from_gcp_artifact_registry": "use `image.base`",
    "from_name": "use `image.base`",
    "from_id": "use `image.base`",
    "from_scratch": "use `image.base`",
}
