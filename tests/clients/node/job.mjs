// Reads a job from standard input and writes to standard output what a client makes of it, or how it fails.

import { text } from "node:stream/consumers";

export async function answer(embed) {
  const job = JSON.parse(await text(process.stdin));
  process.stdout.write(JSON.stringify(await embed(job).catch(failure)));
}

function failure(error) {
  const { name, message, cause, lastError } = error; // of an error that another is wrapped in
  const status = [error, cause, lastError].map((one) => one?.status ?? one?.statusCode).find(Boolean);
  return { error: { name, class: error.constructor.name, message, status: status ?? null } };
}
