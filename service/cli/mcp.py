"""`tandem mcp`: a server of the Model Context Protocol with one tool, which asks a running gateway."""

import base64
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from service import __version__
from service.client import AsyncClient, CallFailed, Photo
from service.schemas import PhotoEmotions

INSTRUCTIONS = (
    "Labels describe what a face shows, not what a person feels. Say so when you report them, leave out those "
    "that are not reliable, and base no decision about a person on them."
)


def create_server(url: str, api_key: str | None) -> MCPServer:
    """Create a server that sends photos to the gateway at ``url``."""

    async def read_faces(
        path: Annotated[str, Field(description="Path of a photo on this machine.")] = "",
        data: Annotated[str, Field(description="The photo's bytes in base64, in place of a path.")] = "",
    ) -> PhotoEmotions:
        """Find the faces in a photo, and the emotion that each shows with its probability."""
        photo = photo_of(path, data)
        try:
            async with AsyncClient(url, api_key=api_key) as client:
                return await client.read(photo)
        except CallFailed as error:
            raise ToolError(str(error)) from None

    server = MCPServer("tandem", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING")
    read_only = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    server.add_tool(read_faces, title="Faces of a photo and the emotions they show", annotations=read_only)
    return server


def photo_of(path: str, data: str) -> Photo:
    """Return the photo that a caller names or sends.

    Raises:
        ToolError: there is none, there are two, or ``data`` is not base64.
    """
    if bool(path) == bool(data):
        raise ToolError("give either path or data")
    if path:
        return path
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # binascii.Error, or a plain one for text beyond ASCII
        raise ToolError(f"data is not base64: {error}") from None
