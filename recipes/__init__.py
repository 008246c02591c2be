"""One YAML file per paper; installed as `zoo_recipes`."""
