"""A container registry, through the OCI distribution API.

registry        the protocol's adapter: blobs, documents, tags, referrers
session         requests: authorized, explained, tried again
authorization   what a registry asks for, and what it gets: basic or bearer
credentials     user names and tokens, from where docker and podman keep them
uploading       one blob in chunks, resumed

[opencontainers/distribution-spec v1.1; distribution/distribution docs/spec/auth/token.md]
"""
