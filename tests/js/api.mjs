/**
 * The reference of the browser client, from its types and the comments on them.
 *
 *     node tests/js/api.mjs            writes client/js/API.md
 *     node tests/js/api.mjs --check    says whether it is up to date
 *
 * What the main module exports comes first, then all that its signatures name.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const CONFIG = fileURLToPath(new URL('./tsconfig.json', import.meta.url));
const CLIENT = fileURLToPath(new URL('../../client/js/', import.meta.url));
export const TARGET = `${CLIENT}API.md`;

const SIGNATURE = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.WriteArrowStyleSignature
  | ts.TypeFormatFlags.UseSingleQuotesForStringLiteralType;

/** @returns {string} the reference, as Markdown */
export function reference() {
  const { config } = ts.readConfigFile(CONFIG, ts.sys.readFile);
  const { options, fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, dirname(CONFIG));
  const program = ts.createProgram(fileNames, { ...options, exactOptionalPropertyTypes: true });
  return new Reference(program).text(program.getSourceFile(`${CLIENT}fulmar.js`));
}

class Reference {
  #checker;
  /** What is to be described, by its name. @type {Map<string, ts.Symbol>} */
  #symbols = new Map();
  #seen = new Set();

  /** @param {ts.Program} program */
  constructor(program) {
    this.#checker = program.getTypeChecker();
  }

  /** @param {ts.SourceFile} main */
  text(main) {
    const exported = this.#checker.getExportsOfModule(this.#checker.getSymbolAtLocation(main));
    for (const symbol of exported) this.#symbols.set(symbol.name, this.#origin(symbol));
    const names = new Set(this.#symbols.keys());
    // A map's iteration comes to what is added on the way: what a signature names is described as well.
    const sections = [];
    for (const [name, symbol] of this.#symbols) sections.push({ name, symbol, text: this.#section(name, symbol) });

    const kinds = [
      ['Functions', ({ name, symbol }) => names.has(name) && symbol.flags & ts.SymbolFlags.Function],
      ['Classes', ({ name, symbol }) => names.has(name) && symbol.flags & ts.SymbolFlags.Class],
      ['Constants', ({ name, symbol }) => names.has(name) && symbol.flags & ts.SymbolFlags.Variable],
      ['Types', ({ name, symbol }) => names.has(name) && symbol.flags & ts.SymbolFlags.TypeAlias],
      ['What these refer to', ({ name }) => !names.has(name)],
    ];
    const parts = ['# Reference of the browser client', '<!-- Written by tests/js/api.mjs from the types in the modules. -->'];
    parts.push(header(main.text));
    for (const [title, belongs] of kinds) {
      const those = sections.filter(belongs).sort((a, b) => (a.name < b.name ? -1 : 1));
      if (those.length) parts.push(`## ${title}`, ...those.map(({ text }) => text));
    }
    return `${parts.join('\n\n')}\n`;
  }

  #origin(symbol) {
    return symbol.flags & ts.SymbolFlags.Alias ? this.#checker.getAliasedSymbol(symbol) : symbol;
  }

  #section(name, symbol) {
    const parts = [`### ${name}`];
    if (symbol.flags & ts.SymbolFlags.Class) parts.push(...this.#class(symbol));
    else if (symbol.flags & ts.SymbolFlags.TypeAlias) parts.push(...this.#alias(symbol));
    else parts.push(...this.#value(name, symbol));
    return parts.filter(Boolean).join('\n\n');
  }

  #alias(symbol) {
    const type = this.#checker.getDeclaredTypeOfSymbol(symbol);
    this.#visitParts(type);
    // Another module's type under the same name is shown as it is written there.
    const [definition] = (type.aliasSymbol ?? symbol).declarations;
    const properties = type.isUnion() ? [] : type.getProperties().filter((property) => (
      this.#doc(property) && property.declarations.every((node) => within(node, definition))
    ));
    const shown = ts.isJSDocTypedefTag(definition) ? written(definition)
      : this.#checker.typeToString(type, undefined, SIGNATURE | ts.TypeFormatFlags.InTypeAlias);
    return [
      sentence(this.#doc(symbol) || this.#doc(type.aliasSymbol ?? symbol)),
      code(pretty(`type ${symbol.name}${this.#generics(type.aliasTypeArguments)} = ${shown}`)),
      properties.map((property) => `- \`${property.name}\`: ${this.#doc(property)}`).join('\n'),
    ];
  }

  #value(name, symbol) {
    const type = this.#checker.getTypeOfSymbol(symbol);
    const signatures = type.getCallSignatures();
    if (signatures.length) return this.#function(name, symbol, signatures, 'function ');
    this.#visit(type);
    const members = type.getProperties().filter(ours);
    const rows = members.map((member) => {
      const said = this.#doc(member);
      const constant = this.#checker.getShorthandAssignmentValueSymbol(member.declarations[0]);
      const literal = constant && this.#origin(constant).declarations[0].initializer?.getText();
      return `- \`${name}.${member.name}\`${literal ? `: ${literal}` : ''}${said ? `. ${said}` : ''}`;
    });
    const text = rows.length ? '' : code(`const ${name}: ${this.#checker.typeToString(type, undefined, SIGNATURE)}`);
    return [sentence(this.#doc(symbol)), text, rows.join('\n')];
  }

  #class(symbol) {
    const type = this.#checker.getDeclaredTypeOfSymbol(symbol);
    const [base] = this.#checker.getBaseTypes(type);
    if (base) this.#visit(base);
    const abstract = tags(symbol).some(({ name }) => name === 'abstract');
    const parts = [
      sentence(this.#doc(symbol)),
      code(`${abstract ? 'abstract ' : ''}class ${symbol.name}${base ? ` extends ${base.symbol.name}` : ''}`),
    ];
    const statics = [...symbol.exports?.values() ?? []];
    const [definition] = symbol.declarations;
    const own = [symbol.members.get('__constructor'), ...type.getProperties(), ...statics].filter((member) => (
      member && isPublic(member) && member.declarations?.some((node) => within(node, definition))
    ));
    const construct = !abstract && own.find(({ flags }) => flags & ts.SymbolFlags.Constructor);
    if (construct) {
      const signatures = this.#checker.getTypeOfSymbol(symbol).getConstructSignatures();
      parts.push(...this.#function(symbol.name, construct, signatures, 'new ', 4));
    }
    for (const member of own) {
      if (member.flags & ts.SymbolFlags.Constructor) continue;
      const memberType = this.#checker.getTypeOfSymbol(member);
      const keyword = statics.includes(member) ? 'static ' : '';
      // A member that goes by a symbol has a number in its name.
      const name = member.name.replace(/^__@(\w+)@\d+$/, '[Symbol.$1]');
      if (member.flags & ts.SymbolFlags.Method) {
        parts.push(...this.#function(name, member, memberType.getCallSignatures(), keyword, 4));
      } else {
        this.#visit(memberType);
        const readonly = member.flags & ts.SymbolFlags.GetAccessor && !(member.flags & ts.SymbolFlags.SetAccessor);
        const shown = this.#checker.typeToString(memberType, undefined, SIGNATURE);
        parts.push(`#### ${keyword}${name}`, code(`${keyword}${readonly ? 'readonly ' : ''}${name}: ${shown}`));
        parts.push(sentence(this.#doc(member) || tagText(member, 'returns')));
      }
    }
    return parts;
  }

  /** @param {number} [level] of a heading of its own */
  #function(name, symbol, signatures, keyword, level) {
    const shown = signatures.map((signature) => this.#signature(name, symbol, signature, keyword));
    const said = new Map(shown.flatMap(({ parameters }) => parameters.map((parameter) => [parameter.name, parameter.said])));
    const rows = [...said].filter(([, text]) => text).map(([its, text]) => `- \`${its}\`: ${text}`);
    const returns = tagText(symbol, 'returns');
    if (returns) rows.push(`- returns ${returns}`);
    return [
      level ? `${'#'.repeat(level)} ${keyword}${name}` : '',
      code(shown.map(({ text }) => text).join('\n')),
      sentence(this.#doc(symbol)),
      rows.join('\n'),
    ];
  }

  #signature(name, symbol, signature, keyword) {
    for (const parameter of signature.parameters) this.#visit(this.#checker.getTypeOfSymbol(parameter));
    this.#visit(signature.getReturnType());
    const parameters = signature.parameters.map((parameter, i) => ({
      name: nameOf(parameter, tags(symbol), i),
      optional: this.#checker.isOptionalParameter(parameter.valueDeclaration),
      type: this.#checker.typeToString(this.#checker.getTypeOfSymbol(parameter), undefined, SIGNATURE),
      said: ts.displayPartsToString(parameter.getDocumentationComment(this.#checker)),
    }));
    const shown = parameters.map(({ name: its, optional, type }) => (
      `${its}${optional ? '?' : ''}: ${optional ? type.replace(/ \| undefined$/, '') : type}`
    ));
    const result = this.#checker.typeToString(signature.getReturnType(), undefined, SIGNATURE);
    const generic = keyword === 'new ' ? '' : this.#generics(signature.typeParameters);
    const text = `${keyword}${name}${generic}(${shown.join(', ')})${keyword === 'new ' ? '' : `: ${result}`}`;
    return { text, parameters };
  }

  #generics(parameters) {
    const shown = parameters?.map((parameter) => {
      const constraint = parameter.getConstraint();
      if (constraint) this.#visit(constraint);
      const bound = constraint ? ` extends ${this.#checker.typeToString(constraint, undefined, SIGNATURE)}` : '';
      return `${parameter.symbol.name}${bound}`;
    });
    return shown?.length ? `<${shown.join(', ')}>` : '';
  }

  #doc(symbol) {
    return ts.displayPartsToString(symbol.getDocumentationComment(this.#checker)).trim();
  }

  /** Has what a type names described. */
  #visit(type) {
    const { aliasSymbol, symbol } = type;
    if (aliasSymbol && ours(aliasSymbol)) return this.#add(aliasSymbol);
    if (symbol && symbol.flags & ts.SymbolFlags.Class && ours(symbol)) return this.#add(symbol);
    this.#visitParts(type);
  }

  #visitParts(type) {
    if (this.#seen.has(type)) return;
    this.#seen.add(type);
    for (const part of type.aliasTypeArguments ?? []) this.#visit(part);
    if (type.isUnionOrIntersection()) for (const part of type.types) this.#visit(part);
    // What stands in the union's own words but was resolved away, as the parts of a union of unions.
    for (const part of type.origin?.types ?? []) this.#visit(part);
    for (const part of this.#checker.getTypeArguments(type.target ? type : {}) ?? []) this.#visit(part);
    if (type.symbol && !ours(type.symbol)) return;
    for (const signature of type.getCallSignatures()) {
      for (const parameter of signature.parameters) this.#visit(this.#checker.getTypeOfSymbol(parameter));
      this.#visit(signature.getReturnType());
    }
    for (const property of type.getProperties()) if (ours(property) && isPublic(property)) this.#visit(this.#checker.getTypeOfSymbol(property));
  }

  #add(symbol) {
    if (!this.#symbols.has(symbol.name)) this.#symbols.set(symbol.name, symbol);
  }
}

const ours = ({ declarations }) => !!declarations?.some((node) => node.getSourceFile().fileName.startsWith(CLIENT));

function isPublic({ name, declarations = [] }) {
  const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
  return !name.startsWith('#') && !name.startsWith('__#') && name !== 'prototype'
    && !declarations.some((node) => ts.getCombinedModifierFlags(node) & hidden || ts.getJSDocProtectedTag(node)
      || ts.getJSDocPrivateTag(node) || ts.getJSDocTags(node).some(({ tagName }) => tagName.text === 'package'));
}

const within = (node, outer) => (
  node.getSourceFile() === outer.getSourceFile() && node.pos >= outer.pos && node.end <= outer.end
);

/** The type that a typedef names, in its own words. @param {ts.JSDocTypedefTag} typedef */
function written({ typeExpression }) {
  const text = (node) => node.type.getText().replace(/\n *\* ?/g, ' ').replace(/import\('[^']*'\)\./g, '');
  if (!ts.isJSDocTypeLiteral(typeExpression)) return text(typeExpression);
  const members = typeExpression.jsDocPropertyTags.map((tag) => (
    `${tag.name.getText()}${tag.isBracketed ? '?' : ''}: ${text(tag.typeExpression)}`
  ));
  return `{ ${members.join('; ')} }`;
}

/** @param {string} text a declaration, put in one form */
function pretty(text) {
  const file = ts.createSourceFile('type.ts', text, ts.ScriptTarget.Latest, true);
  const printed = ts.createPrinter({ removeComments: true }).printFile(file).trim();
  return printed.replace(/^( {4})+/gm, (indent) => indent.slice(indent.length / 2)).replace(/"/g, "'");
}

const tags = (symbol) => symbol.getJsDocTags();
const tagText = (symbol, name) => ts.displayPartsToString(tags(symbol).find((tag) => tag.name === name)?.text).trim();

/** A parameter that is taken apart has its name in the comment only. */
function nameOf(parameter, all, index) {
  if (!parameter.name.startsWith('__')) return parameter.name;
  const parts = all.filter(({ name }) => name === 'param')[index]?.text;
  return parts?.find(({ kind }) => kind === 'parameterName')?.text ?? 'options';
}

const code = (text) => `\`\`\`ts\n${text}\n\`\`\``;
const sentence = (text) => text && text[0].toUpperCase() + text.slice(1).replace(/([^.:!?])$/, '$1.');

/** The comment at the head of a module. */
function header(text) {
  const [, comment] = /^\/\*\*\n([^]*?)\n \*\//.exec(text);
  return comment.replace(/^ \* ?/gm, '').replace(/\n?@typedef[^]*$/, '').trim();
}

function main() {
  const text = reference();
  if (!process.argv.includes('--check')) return writeFileSync(TARGET, text);
  if (readFileSync(TARGET, 'utf8') !== text) {
    console.error('client/js/API.md is not what node tests/js/api.mjs writes');
    process.exitCode = 1;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
