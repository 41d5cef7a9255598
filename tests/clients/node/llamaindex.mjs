// LlamaIndex.TS; with documents, its index finds among them what is nearest to the input.

import { OpenAIEmbedding } from "@llamaindex/openai";
import { Document, Settings, VectorStoreIndex } from "llamaindex";

import { answer } from "./job.mjs";

await answer(async ({ base_url, model, input, documents, options }) => {
  const embedding = new OpenAIEmbedding({ model, apiKey: "not-needed", baseURL: base_url, ...options });
  if (documents) return { found: await nearest(embedding, documents, input) };
  if (typeof input === "string") return { vectors: [await embedding.getTextEmbedding(input)] };
  return { vectors: await embedding.getTextEmbeddingsBatch(input) };
});

async function nearest(embedding, documents, question) {
  Settings.embedModel = embedding;
  const index = await VectorStoreIndex.fromDocuments(documents.map((text) => new Document({ text })));
  const [{ node }] = await index.asRetriever({ similarityTopK: 1 }).retrieve({ query: question });
  return node.getContent();
}
