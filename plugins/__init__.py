"""The bundled algorithms, one file each; installed as `zoo_plugins`."""

if __name__ != "zoo_plugins":
    raise ImportError(f"This folder is the package zoo_plugins, not {__name__}: import zoo_plugins instead.")
