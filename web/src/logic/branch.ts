// Branches of a project: how URLs of the page and of the API name one.
export const mainBranch = "main";
export const maxBranchNameLength = 30;
export const branchNameRule = `Lowercase letters, digits and single hyphens. At most ${maxBranchNameLength} characters.`;

/** `PROJECT@BRANCH`; the project alone for its main branch. `project` is a name or an id. */
export const branchReference = (project: string, branch: string) => (branch === mainBranch ? project : `${project}@${branch}`);

/** The project and the branch that a reference names. */
export function parseReference(reference: string): { project: string; branch: string } {
  const at = reference.indexOf("@");
  return at < 0 ? { project: reference, branch: mainBranch } : { project: reference.slice(0, at), branch: reference.slice(at + 1) };
}

/** The part of a query's key that names a branch. The project alone is the prefix for all of its branches. */
export function branchKey(reference: string): [project: string, branch: string] {
  const { project, branch } = parseReference(reference);
  return [project, branch];
}
