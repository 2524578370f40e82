"""Trees without a working tree: folders of a commit as values, and back."""

from __future__ import annotations

from collections import defaultdict

import pygit2
from pygit2.enums import FileMode

from shipoff.runtime.manifests.folder import Files


def files_of(repository: pygit2.Repository, commit: pygit2.Oid | None, folder: str) -> Files:
    """The files below a folder of a commit, by their path in it; none where there is no such folder."""
    found = _below(repository, commit, folder)
    return dict(_walked(found, "")) if found is not None else {}


def _below(repository: pygit2.Repository, commit: pygit2.Oid | None, folder: str) -> pygit2.Tree | None:
    if commit is None:
        return None
    tree = repository[commit].peel(pygit2.Tree)
    try:
        found = tree[folder]
    except KeyError:
        return None
    return found if isinstance(found, pygit2.Tree) else None


def _walked(tree: pygit2.Tree, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for one in tree:
        path = f"{prefix}{one.name}"
        if isinstance(one, pygit2.Tree):
            found += _walked(one, f"{path}/")
        elif isinstance(one, pygit2.Blob):
            found.append((path, one.data))
    return found


def with_folder(repository: pygit2.Repository, commit: pygit2.Oid | None, folder: str, files: Files) -> pygit2.Oid:
    """The root tree of a commit with exactly these files below a folder; the folder is gone where there are none."""
    root = repository[commit].peel(pygit2.Tree) if commit is not None else None
    made = _put(repository, root, folder.split("/"), files)
    return made if made is not None else repository.TreeBuilder().write()


def _put(repository: pygit2.Repository, tree: pygit2.Tree | None, way: list[str], files: Files) -> pygit2.Oid | None:
    """The tree with the files where the way leads; None where nothing is left in it."""
    if not way:
        return _written(repository, files)
    builder = repository.TreeBuilder(tree) if tree is not None else repository.TreeBuilder()
    step, *rest = way
    below = tree[step] if tree is not None and step in tree else None
    made = _put(repository, below if isinstance(below, pygit2.Tree) else None, rest, files)
    if made is not None:
        builder.insert(step, made, FileMode.TREE)
    elif below is not None:
        builder.remove(step)
    return builder.write() if len(builder) else None


def _written(repository: pygit2.Repository, files: Files) -> pygit2.Oid | None:
    builder = repository.TreeBuilder()
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in files.items():
        name, _, rest = path.partition("/")
        if rest:
            folders[name][rest] = content
        else:
            builder.insert(name, _blob(repository, content), FileMode.BLOB)
    for name, below in folders.items():
        made = _written(repository, below)
        if made is not None:
            builder.insert(name, made, FileMode.TREE)
    return builder.write() if len(builder) else None


def _blob(repository: pygit2.Repository, content: bytes) -> pygit2.Oid:
    """Most of a folder is there already, and looking is quicker than writing."""
    known = pygit2.hash(content)
    return known if known in repository else repository.create_blob(content)
