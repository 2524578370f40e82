"""The verbs about who you are: login, whoami, tokens, members."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from shipoff.cli import credentials
from shipoff.cli.errors import UsageFailure
from shipoff.cli.output import Output, ago
from shipoff.cli.parsing import Group, Verb
from shipoff.cli.verb import JsonOption, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json

tokens = typer.Typer(cls=Group, add_completion=False, help="API tokens, for scripts and other machines.", no_args_is_help=True)
members = typer.Typer(cls=Group, add_completion=False, help="Who belongs to a team.", no_args_is_help=True)

TeamOption = Annotated[str | None, typer.Option("--team", help="A team's name or id; not needed when you have one.")]


@verb
def login(
    url: Annotated[
        str | None, typer.Option("--url", help="The platform; else SHIPOFF_URL, else http://localhost:8080.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="The token; - or nothing: it is asked for.")] = None,
    setup_token: Annotated[
        str | None, typer.Option("--setup-token", help="Make the first owner with the platform's setup token.")
    ] = None,
    email: Annotated[str | None, typer.Option("--email", help="With --setup-token.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="With --setup-token: your name.")] = None,
    team: Annotated[str | None, typer.Option("--team", help="With --setup-token: your team's name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign in with a token, or make the first owner of a new platform."""
    from shipoff.cli.client import Api

    output = Output(as_json=as_json)
    known = replace(credentials.load(url or ""), token="", signed_in_by="")
    target = known.url
    with Api(known) as api:
        api.get("/v1/info")
        secret = _set_up(api, setup_token, email, name, team) if setup_token else _asked(token)
    with Api(replace(known, token=secret, signed_in_by="--token")) as api:
        me = api.get("/v1/me")
    file = credentials.save(target, secret)
    output.data({"url": target, **me})
    output.say(f"Signed in to {target} as {_who(me)}. The token is in {file}")
    if os.environ.get("SHIPOFF_TOKEN", "").strip() not in ("", secret):
        output.note("Note: SHIPOFF_TOKEN is set, and comes before what was saved now")


def _set_up(api: Api, setup_token: str, email: str | None, name: str | None, team: str | None) -> str:
    email = email or _prompt("Your e-mail address", "--email")
    body = {"setup_token": setup_token, "email": email, "name": name or email.partition("@")[0], "team": team or "main"}
    return str(api.post("/v1/setup", body)["token"])


def _asked(token: str | None) -> str:
    secret = token if token and token != "-" else _prompt("Token", "--token", hidden=True)  # noqa: S105 - a dash, no secret
    if not secret or any(character.isspace() or not character.isprintable() for character in secret):
        raise UsageFailure("that is no token", field="--token")
    return secret


def _prompt(question: str, option: str, *, hidden: bool = False) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=hidden, err=True)).strip()
    answer = sys.stdin.readline().strip()
    if not answer:
        remedy = f"give it with {option} or on standard input: there is no terminal to ask at"
        raise UsageFailure(f"{question.lower()} is missing", field=option, remedy=remedy)
    return answer


def _who(me: Json) -> str:
    return str(me["user"]["email"])


@verb
def whoami(as_json: JsonOption = False) -> None:
    """Show who you are signed in as."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        me = api.get("/v1/me")
        output.data({"url": api.url, **me})
        teams = ", ".join(f"{team['name']} ({team['role']})" for team in me["teams"]) or "no team"
        output.say(f"{_who(me)} at {api.url}, in {teams}")


@tokens.command("list", cls=Verb)
@verb
def list_tokens(as_json: JsonOption = False) -> None:
    """List your tokens, without their secrets."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = list(api.items("/v1/tokens"))
    output.data({"items": found})
    rows = [(token["id"], token["name"], ago(token["created_at"]), ago(token.get("last_used_at"))) for token in found]
    output.table(("ID", "NAME", "CREATED", "LAST USED"), rows)


@tokens.command("create", cls=Verb)
@verb
def create_token(name: Annotated[str, typer.Argument(help="What it is for.")], as_json: JsonOption = False) -> None:
    """Make a token. It is shown once."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        created = api.post("/v1/tokens", {"name": name})
    output.data(created)
    output.say(created["token"])
    output.note("It is not shown again.")


@tokens.command("revoke", cls=Verb)
@verb
def revoke_token(token_id: Annotated[str, typer.Argument(metavar="ID")], as_json: JsonOption = False) -> None:
    """Make a token worthless."""
    from shipoff.cli.client import segment

    output = Output(as_json=as_json)
    with signed_in() as api:
        api.delete(f"/v1/tokens/{segment(token_id)}")
    output.data({"revoked": token_id})
    output.say(f"Token {token_id} is worthless now")


def team_id(api: Api, wanted: str | None) -> str:
    """A team's id. Raises UsageFailure when it is not clear which."""
    teams: list[Json] = api.get("/v1/me")["teams"]
    matching = [team for team in teams if wanted is None or wanted in (team["id"], team["name"])]
    if len(matching) != 1:
        known = ", ".join(team["name"] for team in teams) or "none"
        message = f"you are in no team {wanted}" if wanted else "it is not clear which team is meant"
        raise UsageFailure(f"{message}; yours: {known}", field="--team", remedy="name one with --team NAME")
    return str(matching[0]["id"])


@members.command("list", cls=Verb)
@verb
def list_members(team: TeamOption = None, as_json: JsonOption = False) -> None:
    """List a team's members."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = list(api.items(f"/v1/teams/{team_id(api, team)}/members"))
    output.data({"items": found})
    rows = [(member["user"]["id"], member["user"]["email"], member["user"]["name"], member["role"]) for member in found]
    output.table(("USER", "E-MAIL", "NAME", "ROLE"), rows)


@members.command("add", cls=Verb)
@verb
def add_member(
    email: Annotated[str, typer.Argument(help="The e-mail address.")],
    role: Annotated[str, typer.Option("--role", help="viewer, developer or owner.")] = "developer",
    team: TeamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add somebody to a team."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        added = api.post(f"/v1/teams/{team_id(api, team)}/members", {"email": email, "role": role})
    output.data(added)
    output.say(f"{email} is a {role} now")
    if added.get("token"):
        output.say(f"Their first token, shown once: {added['token']}")


@members.command("remove", cls=Verb)
@verb
def remove_member(
    user_id: Annotated[str, typer.Argument(metavar="USER")], team: TeamOption = None, as_json: JsonOption = False
) -> None:
    """Remove somebody from a team."""
    from shipoff.cli.client import segment

    output = Output(as_json=as_json)
    with signed_in() as api:
        api.delete(f"/v1/teams/{team_id(api, team)}/members/{segment(user_id)}")
    output.data({"removed": user_id})
    output.say(f"{user_id} is no member any more")
