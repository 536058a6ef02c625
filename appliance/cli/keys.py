"""keys: the organisation's offline keys, its roots, and what is passed from hand to hand."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from appliance.bundle.make import countersign
from appliance.cli import declare
from appliance.cli.asking import PassphraseFile, Yes, confirm, new_passphrase, passphrase, screen
from appliance.cli.common import AsJson, show
from appliance.cli.keys_text import describe, next_step, standing_lines
from appliance.errors import UsageError
from appliance.trust import arrivals, overview, passing
from appliance.trust import keys as key_files
from appliance.trust.keys import Keyring, PublicKey
from appliance.trust.repository import SOLO_KEYS, Repository, org_name
from appliance.trust.rotation import ROLES, Arrangement, Rotation

Folder = Annotated[Path, typer.Argument(help="The keys folder.")]
KeyFile = Annotated[Path, typer.Argument(help="The private key's file, NAME.pem.")]
Signing = Annotated[
    list[Path], typer.Option("--key", help="A private key, NAME.pem; may be repeated.")
]
Halves = list[Path] | None


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("init", help="Make an organisation's keys and its first root.")(init)
    group.command("create", help="Make one person's key: NAME.pem and NAME.pub.")(create)
    group.command("passphrase", help="Change, add or remove a key's passphrase.")(change_passphrase)
    group.command("list", help="Show who holds which role, and what is declared.")(list_)
    group.command("sign", help="Sign a root or a publisher's list that was passed on.")(sign)
    group.command("rotate", help="Draft the next root: replace, add or remove keys.")(rotate)
    group.command("adopt", help="Take in what came back: a root, a list, a bundle.")(adopt)
    group.command("discard", help="Give up a list that left and lacks signatures.")(discard)
    group.command("publish", help="As a publisher: sign the list of your own models.")(publish)
    declare.register(group)
    app.add_typer(group, name=name, help=help_text)


def init(  # noqa: PLR0913, PLR0917 - every role has its options
    folder: Folder,
    org: Annotated[str, typer.Option(help="The organisation's name.")],
    solo: Annotated[
        bool, typer.Option("--solo", help="Root 1 of 2 and targets 1: one person, one safe.")
    ] = False,
    root: Annotated[Halves, typer.Option(help="NAME.pub of a root holder; repeat it.")] = None,
    targets: Annotated[Halves, typer.Option(help="NAME.pub of who approves; repeat it.")] = None,
    timestamp: Annotated[Halves, typer.Option(help="NAME.pub of who finishes bundles.")] = None,
    threshold_root: Annotated[int, typer.Option(help="Root holders who must sign.")] = 2,
    threshold_targets: Annotated[int, typer.Option(help="Approvers who must sign.")] = 2,
    as_json: AsJson = False,
) -> None:
    if solo:
        _init_solo(folder, org, as_json=as_json)
        return
    if not (root and targets and timestamp):
        raise UsageError(
            "several people's keys are named: --root, --targets and --timestamp",
            hint="or --solo, for one person: root 1 of 2",
        )
    held = {"root": root, "targets": targets, "timestamp": timestamp}
    keys = {role: [PublicKey.read(path) for path in paths] for role, paths in held.items()}
    needed = Arrangement(keys, {"root": threshold_root, "targets": threshold_targets})
    _show_draft(folder, arrivals.init(folder, org_name(org), needed, _now()), as_json=as_json)


def _init_solo(folder: Path, org: str, *, as_json: bool) -> None:
    Repository.init_solo(folder, org_name(org), _now())
    made = [name for names in SOLO_KEYS.values() for name in names]
    text = (
        f"keys of {org} are in {folder}: {', '.join(made)}\n"
        f"  root needs 1 of 2 signatures: move root-2.pem to a safe, it replaces the others\n"
        f"  solo: {overview.SOLO}\n"
        f"  nodes are given {folder / 'metadata' / '1.root.json'}"
    )
    root = str(folder / "metadata" / "1.root.json")
    show({"org": org, "keys": made, "root": root, "solo": True}, text, as_json=as_json)


def create(
    key: KeyFile,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Whoever has the file can sign.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    word = new_passphrase(passphrase_file, key, none=no_passphrase)
    made = key_files.create_pair(key, word)
    beside = key.with_suffix(".pub")
    text = f"made {key}: keep it to yourself\nhand over {beside} ({made.name}, {made.public})"
    data = {"name": made.name, "public": made.public, "private": str(key), "pub": str(beside)}
    show(data, text, as_json=as_json)


def change_passphrase(
    key: KeyFile,
    remove: Annotated[bool, typer.Option("--remove", help="Leave the key without one.")] = False,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="Read the new one from a file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    held = key_files.SigningKey.open(key, passphrase(passphrase_file))
    word = new_passphrase(new_passphrase_file, key, none=remove)
    held.write(key, word)
    text = f"{key} has {'no' if remove else 'a new'} passphrase"
    show({"key": str(key), "locked": not remove}, text, as_json=as_json)


def list_(folder: Folder, as_json: AsJson = False) -> None:
    found = overview.overview(Repository(folder))
    show(found, screen(describe(found)), as_json=as_json)


def sign(
    file: Annotated[Path, typer.Argument(help="N.root.json or N.publisher-NAME.json.")],
    key: Signing,
    root: Annotated[
        Path | None, typer.Option(help="The root before this one; else it lies beside FILE.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    keyring = Keyring(key, passphrase(passphrase_file))
    passed = passing.read(file, root, keyring.halves)
    passed.check_keys(keyring)
    passed.standings()  # what was changed on its way is not even shown
    if passed.may_sign(keyring):
        confirm(screen(passed.says), yes=yes)
    done = passed.sign(keyring)
    standings = passed.standings()
    data = {"signed": done, "says": passed.says, "standings": [s.to_wire() for s in standings]}
    text = f"signed now by {', '.join(done)}" if done else "signed before; nothing to add"
    lines = [text, *standing_lines(standings), next_step(file, standings)]
    show(data, screen(lines), as_json=as_json)


def rotate(
    folder: Folder,
    add: Annotated[list[str] | None, typer.Option(help="ROLE=NAME.pub; may be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="ROLE=NAME, or a key's id.")] = None,
    threshold: Annotated[list[str] | None, typer.Option(help="ROLE=NUMBER.")] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    change = Rotation(
        {r: [PublicKey.read(Path(p)) for p in paths] for r, paths in _by_role(add).items()},
        _by_role(remove),
        {role: _number(numbers[-1]) for role, numbers in _by_role(threshold).items()},
    )
    repository = Repository(folder, passphrase(passphrase_file))
    _show_draft(folder, arrivals.rotate(repository, change, _now()), as_json=as_json)


def adopt(
    folder: Folder,
    what: Annotated[Path, typer.Argument(help="A root, a publisher's list, or a bundle's folder.")],
    as_json: AsJson = False,
) -> None:
    text = countersign.adopt(folder, what)
    show({"adopted": str(what), "text": text}, text, as_json=as_json)


def discard(folder: Folder, as_json: AsJson = False) -> None:
    number = arrivals.discard(Repository(folder))
    text = f"list {number} is given up, and its number with it: destroy the copies that travel"
    show({"discarded": number}, text, as_json=as_json)


def publish(  # noqa: PLR0913, PLR0917 - each names a file
    name: Annotated[str, typer.Argument(help="Your name as a publisher.")],
    bundle: Annotated[Path, typer.Option("--from", help="A bundle with your models.")],
    key: Signing,
    last: Annotated[Path | None, typer.Option(help="The list that you handed over last.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path(),
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    keyring = Keyring(key, passphrase(passphrase_file))
    path = output / f"publisher-{name}.json"
    files = countersign.metadata_files(bundle)
    passed = passing.draft_list(path, files, last, keyring.halves, _now())
    confirm(screen([f"{passed.path.name} of {name}:", *passed.says]), yes=yes)
    done = passed.sign(keyring)
    lines = [*passed.says, f"hand over {passed.path}, signed by {', '.join(done)}"]
    data = {"list": str(passed.path), "signed": done, "says": passed.says}
    show(data, screen(lines), as_json=as_json)


def _show_draft(folder: Path, drafted: arrivals.Drafted, *, as_json: bool) -> None:
    found = passing.read(drafted.path, None)
    data = {
        "root": str(drafted.path),
        "in_force": drafted.in_force,
        "says": found.says,
        "standings": [standing.to_wire() for standing in drafted.standings],
    }
    step = next_step(drafted.path, list(drafted.standings), folder)
    lines = [*found.says, *standing_lines(list(drafted.standings)), step]
    show(data, screen(lines), as_json=as_json)


def _by_role(words: list[str] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words or []:
        role, mark, value = word.partition("=")
        if not mark or role not in ROLES:
            raise UsageError(f"{word!r} is not ROLE=…, with a role of {', '.join(ROLES)}")
        found.setdefault(role, []).append(value)
    return found


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a number of people") from error


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
