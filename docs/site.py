"""A hook of MkDocs: takes documents from where they live in the repository, and points their links to the site.

Links in a document are relative to its place in the repository, so that they work there too.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "model_repository/tandem/1/MODEL_CARD.md": "model-card.md",
    "model_repository/tandem/1/EXPERIMENTS.md": "experiments.md",
    "service/api/ui/responsible-use.md": "responsible-use.md",
    "tests/benchmarks/RESULTS.md": "benchmarks.md",
    "tests/benchmarks/one-face.png": "one-face.png",
    "tests/benchmarks/six-faces.png": "six-faces.png",
    "tests/benchmarks/12-Mpx.png": "12-Mpx.png",
    "service/api/ui/icon.svg": "icon.svg",
}
"""Path in the repository to path in the site; files in docs/ keep theirs."""

SOURCES = {site: source for source, site in ELSEWHERE.items()}
FOREIGN = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
"""A file that a page would load from elsewhere; links to pages elsewhere are fine."""

LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere."""
    for source, site in ELSEWHERE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links that are relative to the document's place in the repository."""
    site = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(site, f"docs/{site}"))

    def rewritten(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        if "://" in link:
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        return before + ELSEWHERE.get(target, target.removeprefix("docs/")) + after

    return LINK.sub(rewritten, markdown)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Refuse pages that load something from elsewhere."""
    if found := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads a file from elsewhere: {found[0]}")
    return output
