"""Two turns by LangChain's ChatOpenAI, streamed; prints the answers as JSON.

Usage: python langchain_client.py URL FIRST SECOND
"""

import json
import sys

from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

url, *questions = sys.argv[1:]
model = ChatOpenAI(model="xinglin", base_url=url, api_key="none", temperature=0, max_retries=0, stream_usage=True)
messages, answers = [SystemMessage("简短")], []
for question in questions:
    messages.append(HumanMessage(question))
    pieces: list[AIMessageChunk] = list(model.stream(messages))
    answer = pieces[0]
    for piece in pieces[1:]:
        answer += piece
    messages.append(answer)
    answers.append(
        {
            "text": answer.content,
            "role": {"ai": "assistant", "AIMessageChunk": "assistant"}.get(answer.type, answer.type),
            "ids": sorted({piece.id for piece in pieces if piece.id}),
            "finish": answer.response_metadata["finish_reason"],
            "tokens": answer.usage_metadata["total_tokens"],
        }
    )
print(json.dumps(answers))
