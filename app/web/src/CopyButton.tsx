import { CheckOutlined, CopyOutlined } from '@ant-design/icons'
import { App, Button } from 'antd'
import { useState } from 'react'

const SHOWN_MS = 1500

export function CopyButton({ text }: { text: string }) {
  const { message } = App.useApp()
  const [done, setDone] = useState(false)
  async function click() {
    try {
      await copy(text)
    } catch {
      return message.error('浏览器不允许复制，请选中文字后手动复制。')
    }
    setDone(true)
    setTimeout(() => setDone(false), SHOWN_MS)
  }
  return (
    <Button
      type="text"
      size="small"
      icon={done ? <CheckOutlined aria-hidden /> : <CopyOutlined aria-hidden />}
      aria-label={done ? '已复制' : '复制'}
      title="复制"
      onClick={click}
    />
  )
}

/** Put a text on the clipboard as it is; without TLS there is the old way only. */
async function copy(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text)
  const area = document.createElement('textarea')
  area.value = text
  document.body.append(area)
  area.select()
  const copied = document.execCommand('copy')
  area.remove()
  if (!copied) throw new Error('The browser refuses to copy.')
}
