// Vercel's AI SDK with its provider for OpenAI.

import { createOpenAI } from "@ai-sdk/openai";

import { answerWith } from "./ai.mjs";

await answerWith(createOpenAI);
