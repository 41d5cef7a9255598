// LangChain.js.

import { OpenAIEmbeddings } from "@langchain/openai";

import { answer } from "./job.mjs";

await answer(async ({ base_url, model, input, options }) => {
  const configuration = { baseURL: base_url };
  const embeddings = new OpenAIEmbeddings({ model, apiKey: "not-needed", configuration, ...options });
  if (typeof input === "string") return { vectors: [await embeddings.embedQuery(input)] };
  return { vectors: await embeddings.embedDocuments(input) };
});
