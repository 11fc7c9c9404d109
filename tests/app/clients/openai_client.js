// Two turns by OpenAI's own client and its helper for streams; prints the answers as JSON.
//
// Usage: node openai_client.js URL FIRST SECOND

import OpenAI from "openai";

const [url, ...questions] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "developer", content: "简短" }];
const answers = [];
for (const content of questions) {
  messages.push({ role: "user", content });
  const stream = client.chat.completions.stream({ model: "xinglin", messages, stream_options: { include_usage: true } });
  const ids = new Set();
  for await (const chunk of stream) ids.add(chunk.id);
  const done = await stream.finalChatCompletion();
  const { message, finish_reason: finish } = done.choices[0];
  messages.push(message);
  answers.push({ text: message.content, role: message.role, ids: [...ids], finish, tokens: done.usage.total_tokens });
}
console.log(JSON.stringify(answers));
