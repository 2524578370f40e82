"""The bodies of the REST API, in and out, and their translation from the contracts."""
