"""What the tasks on natural images share: embedded images, image files, loaders."""
