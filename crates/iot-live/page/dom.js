// The few helpers with which the views make and change elements.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with a class, attributes and children (elements or text). */
export function make(tag, className = '', attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An SVG element. */
export function svg(tag, className = '', attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  if (className) element.setAttribute('class', className);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets text only when it differs: an equal write would still cost a repaint. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets or (null) removes an attribute, only when that changes something. */
export function setAttribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) {
    element.setAttribute(name, value);
  }
}

/** Makes the children of `parent` exactly `wanted`, moving as few as possible. */
export function arrange(parent, wanted) {
  wanted.forEach((node, at) => {
    if (parent.children[at] !== node) parent.insertBefore(node, parent.children[at] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

/** An element of the page that must be there. */
export function byId(id) {
  return document.getElementById(id);
}
