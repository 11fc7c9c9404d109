"""Two turns by LlamaIndex's OpenAI, streamed; prints the answers as JSON.

Usage: python llama_index_client.py URL FIRST SECOND
"""

import json
import sys

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI


class Gateway(OpenAI):
    """Any model's name, as LlamaIndex's documentation has it for other servers: its own class knows OpenAI's names alone."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=2048, num_output=1024, is_chat_model=True, model_name=self.model)


url, *questions = sys.argv[1:]
model = Gateway(model="xinglin", api_base=url, api_key="none", max_retries=0)
messages, answers = [ChatMessage(role="system", content="简短")], []
for question in questions:
    messages.append(ChatMessage(role="user", content=question))
    pieces = list(model.stream_chat(messages))
    messages.append(pieces[-1].message)
    answers.append(
        {
            "text": "".join(piece.delta or "" for piece in pieces),
            "role": pieces[-1].message.role.value,
            "ids": sorted({piece.raw.id for piece in pieces}),
            "finish": pieces[-1].raw.choices[0].finish_reason,
        }
    )
    assert pieces[-1].message.content == answers[-1]["text"]
print(json.dumps(answers))
