// Two turns by Vercel's AI SDK and its provider for OpenAI-compatible servers, streamed; prints the answers as JSON.
//
// Usage: node ai_sdk_client.js URL FIRST SECOND

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const [baseURL, ...questions] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "xinglin", baseURL, apiKey: "none", includeUsage: true });
const messages = [];
const answers = [];
for (const content of questions) {
  messages.push({ role: "user", content });
  const result = streamText({ model: provider("xinglin"), system: "简短", messages, maxRetries: 0 });
  let text = "";
  for await (const piece of result.textStream) text += piece;
  const { messages: given, id } = await result.response;
  messages.push(...given);
  const { totalTokens: tokens } = await result.usage;
  answers.push({ text, role: given[0].role, ids: [id], finish: await result.finishReason, tokens });
}
console.log(JSON.stringify(answers));
