// Uploads to a project. A file that exists already is replaced only after a question.
import { readApiError, send } from "../../api/client";
import { filesUrl, notifyError } from "../../api/queries";
import { joinPath } from "../../logic/path";
import { replaceQuestion } from "../../logic/replaceQuestion";
import type { Question } from "../../shell/Confirm";

const uploadTimeout = 3_600_000;

/** Uploads the files to the folder, and returns those that are there now. An error is shown. */
export async function upload(project: string, files: File[], folder: string, ask: (question: Question) => Promise<boolean>): Promise<File[]> {
  const done: File[] = [];
  const existing: File[] = [];
  const put = async (file: File, replace: boolean) => {
    const init = { method: "PUT", body: file, headers: replace ? undefined : { "if-none-match": "*" } };
    const response = await send(filesUrl(project, joinPath(folder, file.name)), init, uploadTimeout);
    if (response.status === 412) existing.push(file);
    else if (!response.ok) throw await readApiError(response);
    else done.push(file);
  };
  try {
    for (const file of files) await put(file, false);
    const asked = existing.splice(0);
    if (asked.length > 0 && (await ask(replaceQuestion(asked.map((file) => file.name), folder)))) {
      for (const file of asked) await put(file, true);
    }
  } catch (error) {
    notifyError(error);
  }
  return files.filter((file) => done.includes(file));
}
