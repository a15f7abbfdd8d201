"""The texts of .txt and .jsonl files, one a line; a line of .jsonl may also be a conversation.

A tokenizer's own chat template is a Jinja program, and a build runs no program that a model's folder brings: a recipe
says instead how each role is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trtbuild.core.errors import DataError

KINDS = (".txt", ".jsonl")
CONTENT = "{content}"
"""What stands for the text of a message."""

_ROLES = ("system", "user", "assistant")
_CHATML = {role: f"<|im_start|>{role}\n{CONTENT}<|im_end|>\n" for role in _ROLES}
_LLAMA3 = {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n{CONTENT}<|eot_id|>" for role in _ROLES}
CHATS: dict[str, dict[str, str]] = {"chatml": _CHATML, "llama3": _LLAMA3}
"""How well-known families write a message, by role: Qwen and many others; Llama 3."""


def records(
    name: str, file: Path, field: str, chat: str | Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """Number from 1 and text of each line: a line of .txt, the text `field` of a line of .jsonl, or with `chat` its
    `messages`, each by its role. Lines that are empty come as empty texts.

    Raises DataError where the file is not UTF-8, or a line is not as expected.
    """
    roles = roles_of(chat) if chat is not None else None
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if file.suffix.lower() == ".txt" or not line.strip():
                    yield number, line.strip()
                else:
                    yield number, _text(f"{name}:{number}", line, field, roles)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def roles_of(chat: str | Mapping[str, str]) -> Mapping[str, str]:
    """How each role is written. Raises DataError for an unknown name, or a role that does not say where its text
    goes."""
    if isinstance(chat, str):
        if chat not in CHATS:
            raise DataError(
                f"there is no chat {chat!r}; known are {', '.join(CHATS)}",
                hint=f'spell each role: chat: {{user: "[INST] {CONTENT} [/INST]", assistant: "{CONTENT}</s>"}}',
            )
        return CHATS[chat]
    for role, text in chat.items():
        if str(text).count(CONTENT) != 1:
            raise DataError(f"chat: {role} must have {CONTENT} once, it is {text!r}", hint="set data.arguments.chat")
    return chat


def _text(place: str, line: str, field: str, roles: Mapping[str, str] | None) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}", hint="a .jsonl file holds one JSON object a line") from error
    if roles is not None and isinstance(record, dict) and "messages" in record:
        return _conversation(place, record["messages"], roles)
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        there = f"it has {', '.join(record)}" if isinstance(record, dict) else "the line is no JSON object"
        more = "; conversations need data.arguments.chat" if isinstance(record, dict) and "messages" in record else ""
        raise DataError(f"{place} has no text {field!r}", hint=f"{there}; set data.arguments.field{more}")
    return text.strip()


def _conversation(place: str, messages: Any, roles: Mapping[str, str]) -> str:
    written = []
    for message in messages if isinstance(messages, list) else [messages]:
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{place} has a message without a role and a text", hint='as {"role": ..., "content": ...}')
        if role not in roles:
            raise DataError(f"{place} has a message of {role!r}", hint=f"data.arguments.chat says {', '.join(roles)}")
        written.append(roles[role].replace(CONTENT, content.strip()))
    return "".join(written)
