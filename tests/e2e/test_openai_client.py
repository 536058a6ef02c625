"""The official client, unchanged, against the gateway."""

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from appliance.demo.story import DEPLOYMENT
from tests.e2e.conftest import Running

pytestmark = pytest.mark.integration


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=running.base_url, api_key=running.key, max_retries=0) as client:
        yield client


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [DEPLOYMENT]


def test_a_chat_is_answered_with_its_token_counts(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=DEPLOYMENT, messages=[{"role": "user", "content": "Say hi."}], max_tokens=8
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8


def test_a_chat_is_streamed_piece_by_piece(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=DEPLOYMENT,
        messages=[{"role": "user", "content": "Count to five."}],
        max_tokens=24,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 3


def test_a_plain_completion_is_answered(client: OpenAI) -> None:
    answer = client.completions.create(model=DEPLOYMENT, prompt="Once upon", max_tokens=4)
    assert answer.choices[0].text


def test_embeddings_of_a_chat_model_are_an_error_that_says_why(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not do embeddings") as caught:
        client.embeddings.create(model=DEPLOYMENT, input="hello")
    assert caught.value.code == "model_not_capable"


def test_an_unknown_model_is_a_404_that_names_those_served(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=DEPLOYMENT):
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])


def test_a_wrong_key_is_refused(running: Running) -> None:
    client = OpenAI(base_url=running.base_url, api_key="ea-wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_prompt_that_is_too_long_is_the_engines_own_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="exceed"):
        client.chat.completions.create(
            model=DEPLOYMENT, messages=[{"role": "user", "content": "word " * 3000}]
        )
