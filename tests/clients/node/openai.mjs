// OpenAI's client.

import OpenAI from "openai";

import { answer } from "./job.mjs";

await answer(async ({ base_url, model, input, options }) => {
  const client = new OpenAI({ baseURL: base_url, apiKey: "not-needed" });
  const { data, usage } = await client.embeddings.create({ model, input, ...options });
  return { vectors: data.map((item) => item.embedding), tokens: usage.prompt_tokens };
});
