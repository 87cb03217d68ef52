"""Fixtures of the tools' tests: a local server, a tiny model that hears."""

import pytest

from tests.chat_fakes import Server, save_tiny_qwen2_audio, serving


@pytest.fixture(scope="session")
def server_address():
    with serving() as address:
        yield address


@pytest.fixture
def server(server_address):
    """The address of a server that has seen nothing yet."""
    Server.replies.clear()
    Server.seen.clear()
    return server_address


@pytest.fixture(scope="session")
def tiny_qwen2_audio(tmp_path_factory, policy):
    folder = tmp_path_factory.mktemp("qwen2audio")
    save_tiny_qwen2_audio(folder, policy.tokenizer)
    return folder
