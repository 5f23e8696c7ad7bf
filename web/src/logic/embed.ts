// Embedding rule: whether a browser shows a private preview in an iframe of this page.

const host = (url: string) => new URL(url).hostname;

/**
 * A private preview authenticates by a cookie. A browser sends cookies in a cross-site iframe only if they are
 * secure, which works over https and on localhost; a subdomain of the page's own host is not cross-site.
 */
export function canEmbed(page: string, preview: string, sharing: "private" | "link" | "public"): boolean {
  if (sharing === "public") return true;
  if (new URL(preview).protocol === "https:" || /(^|\.)localhost$/.test(host(preview))) return true;
  return /[a-z]/i.test(host(page)) && host(preview).endsWith(`.${host(page)}`);
}
