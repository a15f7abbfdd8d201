"""Publish, pull, promote and roll back: the same at every place."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import trtbuild
from tests.bundles import write_bundle, write_engine
from tests.registries.conftest import KINDS
from trtbuild.core.content import Blob, Index
from trtbuild.core.errors import DataError, DestinationError, StoreError, VerificationError
from trtbuild.destinations import open_destination
from trtbuild.destinations.protocol import TagMoved
from trtbuild.destinations.reference import Reference
from trtbuild.pipeline.package import package

every_place = pytest.mark.parametrize("kind", KINDS)
Place = Callable[[str], str]


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@every_place
def test_there_and_back(kind: str, fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place(kind)
    bundle = Path(shutil.copytree(bundles / "bundle-2.0", tmp_path / "bundle"))
    first = trtbuild.publish(bundle, place)
    assert first.sent_bytes > 9_000_000
    trtbuild.keygen(tmp_path / "k.key")
    trtbuild.sign(bundle, tmp_path / "k.key")
    second = trtbuild.publish(bundle, place)
    assert (second.digest, second.sent_bytes, second.signatures) == (first.digest, 0, 1)
    pulled = trtbuild.pull(second.reference, everything=True, output=tmp_path / "out", keys=[tmp_path / "k.pub"])
    assert files(tmp_path / "out") == files(bundle)
    assert pulled.signed_by == [str(tmp_path / "k.pub")]
    assert not list(tmp_path.glob(".out*")), "nothing is left beside it"
    again = trtbuild.pull(f"{place}@{first.digest}", everything=True, output=tmp_path / "out")
    assert again.fetched_bytes == 0


def test_a_bundle_has_one_digest_wherever_it_lies(fresh_place: Place, bundles: Path) -> None:
    assert len({trtbuild.publish(bundles / "bundle-1.0", fresh_place(kind)).digest for kind in KINDS}) == 1


@every_place
def test_promotion_and_roll_back(kind: str, fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place(kind)
    for version in ("1.0", "2.0"):
        trtbuild.publish(bundles / f"bundle-{version}", place)
    other = write_bundle(tmp_path, "2.1", seed=7)
    trtbuild.publish(other, place)
    assert trtbuild.promote(f"{place}:1.0", "prod").replaced == ""
    trtbuild.promote(f"{place}:2.0", "prod")
    assert trtbuild.promote(f"{place}:2.1", "prod").replaced == "2.0"
    assert trtbuild.promote(f"{place}:prod", "staging").version == "2.1"
    found = trtbuild.versions(place)
    assert [version.tag for version in found.versions] == ["1.0", "2.0", "2.1"]
    assert {alias.alias: (alias.version, alias.before) for alias in found.aliases} == {
        "prod": ("2.1", "2.0"),
        "staging": ("2.1", ""),
    }
    assert trtbuild.rollback(f"{place}:prod").version == "2.0"
    back = trtbuild.rollback(f"{place}:prod")
    assert (back.version, back.replaced, back.action) == ("1.0", "2.0", "rollback")
    assert back.verdicts == {"fp16.sm_90.nvidia-h200.tensorrt-10.13.2.6": "passed"}
    pulled = trtbuild.pull(f"{place}:prod", everything=True, output=tmp_path / "prod")
    assert pulled.version == "1.0"
    with pytest.raises(DestinationError, match=r"nothing came before 1.0 as prod"):
        trtbuild.rollback(f"{place}:prod")
    with pytest.raises(DestinationError, match="has no alias live"):
        trtbuild.rollback(f"{place}:live")
    with pytest.raises(DestinationError, match="is a version of"):
        trtbuild.promote(f"{place}:2.0", "1.0")
    with pytest.raises(DestinationError, match="is an alias of"):
        trtbuild.publish(other, f"{place}:prod", replace=True)


@every_place
def test_a_failed_verdict_is_neither_published_nor_promoted(
    kind: str, fresh_place: Place, bundles: Path, tmp_path: Path
) -> None:
    place = fresh_place(kind)
    with pytest.raises(DataError, match="failed its gates"):
        trtbuild.publish(bundles / "bundle-3.0", place)
    assert trtbuild.versions(place).versions == []
    trtbuild.publish(bundles / "bundle-3.0", place, allow_failed=True)
    with pytest.raises(DataError, match=r"failed its gates: cosine_min is 0.9"):
        trtbuild.promote(f"{place}:3.0", "prod")
    with pytest.raises(DestinationError, match="it failed its gates"):
        trtbuild.pull(f"{place}:3.0", output=tmp_path / "out")
    assert trtbuild.versions(place).versions[0].failed == ["fp16.sm_90.nvidia-h200.tensorrt-10.13.2.6"]


@every_place
def test_a_version_is_not_replaced_by_accident(kind: str, fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place(kind)
    first = trtbuild.publish(bundles / "bundle-1.0", f"{place}:stable")
    with pytest.raises(DestinationError, match="has another bundle as stable"):
        trtbuild.publish(bundles / "bundle-2.0", f"{place}:stable")
    assert trtbuild.versions(place).versions[0].digest == first.digest
    second = trtbuild.publish(bundles / "bundle-2.0", f"{place}:stable", replace=True)
    assert trtbuild.versions(place).versions[0].digest == second.digest


@every_place
def test_what_is_missing(kind: str, fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place(kind)
    with pytest.raises(DestinationError, match="has no prod") as told:
        trtbuild.pull(f"{place}:prod", output=tmp_path / "out")
    assert "it holds nothing yet" in told.value.hint
    trtbuild.publish(bundles / "bundle-1.0", place)
    with pytest.raises(DestinationError, match="names no version") as told:
        trtbuild.pull(place, output=tmp_path / "out")
    assert "there are: 1.0" in told.value.hint
    with pytest.raises(DestinationError, match="has no sha256:0000"):
        trtbuild.pull(f"{place}@sha256:{'0' * 64}", output=tmp_path / "out")
    with pytest.raises(DestinationError, match=r"no engine of tiny 1.0 fits this machine .*needs"):
        trtbuild.pull(f"{place}:1.0", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@every_place
def test_a_tag_moves_only_from_where_it_was_seen(kind: str, fresh_place: Place) -> None:
    destination = open_destination(Reference.parse(fresh_place(kind)))
    destination.will_write()
    indexes = [Blob.of_document(Index(manifests=[], annotations={"n": str(n)}), str(n)) for n in range(3)]
    for blob in indexes:
        destination.put(blob, lambda _: None)
    one, two, three = (blob.descriptor.plain for blob in indexes)
    destination.move_tag("t", one, None)
    with pytest.raises(TagMoved):
        destination.move_tag("t", two, None)
    seen = destination.tag("t")
    assert seen is not None
    assert seen.descriptor == one
    destination.move_tag("t", two, seen)
    with pytest.raises(TagMoved):
        destination.move_tag("t", three, seen)
    assert destination.tags() == ["t"]
    destination.close()


@pytest.mark.parametrize("kind", ["dir", "s3", "hf"])
def test_of_many_at_once_one_wins(kind: str, fresh_place: Place) -> None:
    """Where the place compares and swaps; an OCI registry cannot."""
    reference = Reference.parse(fresh_place(kind))
    won: list[int] = []

    def race(number: int) -> None:
        destination = open_destination(reference)
        blob = Blob.of_document(Index(manifests=[], annotations={"n": str(number)}), str(number))
        destination.put(blob, lambda _: None)
        start.wait()
        try:
            destination.move_tag("t", blob.descriptor.plain, None)
            won.append(number)
        except TagMoved:
            pass

    start = threading.Barrier(6)
    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


@every_place
def test_a_file_that_changes_under_way_publishes_nothing(
    kind: str, fresh_place: Place, bundles: Path, tmp_path: Path
) -> None:
    place = fresh_place(kind)
    bundle = Path(shutil.copytree(bundles / "bundle-2.0", tmp_path / "bundle"))
    (plan,) = bundle.glob("engines/*/engine.plan")
    content = bytearray(plan.read_bytes())
    content[5_000_000] ^= 1
    plan.write_bytes(content)
    with pytest.raises((VerificationError, DestinationError)):
        trtbuild.publish(bundle, place)
    assert trtbuild.versions(place).versions == []
    digest = json.loads((bundle / "bundle.json").read_text())["engines"][0]["files"]
    sha256 = next(file["sha256"] for path, file in digest.items() if path.endswith("engine.plan"))
    shutil.copy(next((bundles / "bundle-2.0").glob("engines/*/engine.plan")), plan)
    assert trtbuild.publish(bundle, place).sent_bytes > 9_000_000, f"{sha256} was not there in any form"
    trtbuild.pull(f"{place}:2.0", everything=True, output=tmp_path / "out")


@pytest.mark.parametrize("kind", ["dir", "oci"])
def test_engines_are_added_to_a_folder_one_by_one(kind: str, fresh_place: Place, tmp_path: Path) -> None:
    place = fresh_place(kind)
    names = []
    for number, gpu in enumerate(("NVIDIA H200", "NVIDIA L4")):
        write_engine(tmp_path / f"built/{number}", gpu=gpu, seed=number)
    package([tmp_path / "built"], output=tmp_path / "bundle", version="1")
    trtbuild.publish(tmp_path / "bundle", place)
    names = [engine.name for engine in trtbuild.verify(tmp_path / "bundle").engines]
    first = trtbuild.pull(f"{place}:1", engines=[names[0]], output=tmp_path / "out")
    assert trtbuild.verify(tmp_path / "out").absent == [names[1]]
    assert first.main_files == [str(tmp_path / "out" / "engines" / names[0] / "engine.plan")]
    with pytest.raises(StoreError, match="holds 1 of the 2 engines"):
        trtbuild.publish(tmp_path / "out", place)
    trtbuild.pull(f"{place}:1", engines=[names[1]], output=tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "bundle")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreError, match="is there and is not this bundle"):
        trtbuild.pull(f"{place}:1", everything=True, output=tmp_path / "other")


@every_place
def test_a_signature_of_a_bundle_that_another_index_carries(
    kind: str, fresh_place: Place, bundles: Path, tmp_path: Path
) -> None:
    """A referrer that claims to speak of our index, with the envelope of another bundle, is found and refused."""
    from trtbuild.bundle.image import SIGNATURE_TYPE, referrer
    from trtbuild.core.events import TransferListener
    from trtbuild.destinations.referrers import attach
    from trtbuild.destinations.transfer import send
    from trtbuild.pipeline.published import find
    from trtbuild.pipeline.published import place as used

    place = fresh_place(kind)
    other = Path(shutil.copytree(bundles / "bundle-2.0", tmp_path / "other"))
    trtbuild.keygen(tmp_path / "k.key")
    trtbuild.sign(other, tmp_path / "k.key")
    trtbuild.publish(bundles / "bundle-1.0", place)
    with pytest.raises(VerificationError, match="not signed at all"):
        trtbuild.pull(f"{place}:1.0", everything=True, output=tmp_path / "out", keys=[tmp_path / "k.pub"])
    envelope = Blob.of(next(other.glob("signatures/*")).read_bytes(), SIGNATURE_TYPE, "replayed")
    with used(f"{place}:1.0", writing=True) as at:
        blobs, manifest = referrer(find(at).descriptor, envelope, SIGNATURE_TYPE)
        send(at.destination, blobs, TransferListener(), at.patience)
        attach(at.destination, manifest, "replayed", TransferListener(), at.patience)
    for keys in ([tmp_path / "k.pub"], []):
        with pytest.raises(VerificationError, match="the signature of another bundle"):
            trtbuild.pull(f"{place}:1.0", everything=True, output=tmp_path / "out", keys=keys)
    assert not (tmp_path / "out").exists()
