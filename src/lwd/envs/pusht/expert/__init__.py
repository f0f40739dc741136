"""A scripted PushT expert, which plans one push at a time by trying many in the real physics, and how it is asked for demonstrations."""
