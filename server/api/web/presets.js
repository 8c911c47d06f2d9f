/** Options for usual tasks: a preset sets these fields of the form. */

const DRAWINGS = "RealESRGAN_x4plus_anime_6B";
const PLAIN = { automatic: true, model: "auto", faces: false };

/** `networks`: names of those that this server has. */
export const presets = (networks) => ({
  photo: { ...PLAIN, size: "x4", content: "photo", format: "jpeg", quality: "" },
  drawing: { ...PLAIN, size: "x4", content: "drawing", format: "png", ...(networks.includes(DRAWINGS) && { model: DRAWINGS }) },
  text: { ...PLAIN, size: "x4", content: "text", format: "png" },
  print: { ...PLAIN, size: "print", print: "30", unit: "cm", dpi: "300", content: "auto", format: "png" },
});
