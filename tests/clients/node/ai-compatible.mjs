// Vercel's AI SDK with its provider for what is compatible with OpenAI.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

import { answerWith } from "./ai.mjs";

await answerWith((settings) => createOpenAICompatible({ name: "gateway", ...settings }));
