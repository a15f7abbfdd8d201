"""What is shipped: engines of one recipe for several machines, with all that proves where they come from.

    bundle.json          what the bundle holds: engines with targets and verdicts, and the digest of every file
    engines/<name>/      one engine as `build` wrote it, with its manifest
    plugins/             shared libraries that engines need at run time
    sbom.cdx.json        CycloneDX bill of materials, with a model card for each engine
    provenance.json      in-toto statement with a SLSA provenance predicate about all files above
    signatures/          that statement in a DSSE envelope, one file for each key

manifest        bundle.json as values
contents        the files of a bundle, in a folder or a tar file, read as a stranger's
shared_library  what a plugin needs to be loaded
sbom            the bill of materials
statement       the in-toto statement
keys            key pairs, offline
envelope        sign a statement, and check who signed
verification    whether all of it agrees
image           a bundle as OCI documents, and back
"""
