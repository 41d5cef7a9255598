// Vercel's AI SDK, with any of its models.

import { embed, embedMany } from "ai";

import { answer } from "./job.mjs";

export async function answerWith(provider) {
  await answer(async ({ base_url, model, input, options }) => {
    const embedding = provider({ baseURL: base_url, apiKey: "not-needed" }).embeddingModel(model);
    if (typeof input === "string") {
      const { embedding: vector, usage } = await embed({ model: embedding, value: input, ...options });
      return { vectors: [vector], tokens: usage.tokens };
    }
    const { embeddings, usage } = await embedMany({ model: embedding, values: input, ...options });
    return { vectors: embeddings, tokens: usage.tokens };
  });
}
